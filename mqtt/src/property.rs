//! Properties of MQTT 5.0: reading a section once, strictly, and keeping what repeats as a view of its bytes.
//!
//! ```text
//!   ┌────────┬─────────────┬──────────────┬─────────────┬───────────────┐
//!   │ length │ 0x26 k1 v1  │ 0x02 seconds │ 0x26 k2 v2  │ 0x03 type ... │
//!   └────────┴─────────────┴──────────────┴─────────────┴───────────────┘
//!             └──────────── UserProperties: a view ────┘
//! ```
//!
//! Every property is checked where the section is read. User properties and subscription identifiers, which may
//! repeat, are not collected anywhere: the section keeps the stretch from the first to the last of them, and iterating
//! walks that stretch again, skipping what lies between.

use core::fmt;
use core::num::{NonZeroU16, NonZeroU32};

use crate::error::{DecodeError, DecodeErrorKind};
use crate::frame::Limits;
use crate::reader::Reader;
use crate::topic::TopicName;
use crate::writer::Sink;

/// The largest subscription identifier (MQTT 5.0 §3.8.2.1.2).
pub const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

/// How a property's value lies on the wire.
#[derive(Clone, Copy)]
enum Shape {
    Byte,
    TwoBytes,
    FourBytes,
    VarInt,
    Text,
    TextPair,
}

macro_rules! properties {
    ($($name:ident = $id:literal, $shape:ident, $text:literal;)*) => {
        /// The identifier of a property (MQTT 5.0 §2.2.2.2); all are below 0x80, one byte on the wire.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum PropertyId { $($name = $id,)* }

        impl PropertyId {
            pub(crate) const fn from_u8(id: u8) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// As the standard calls it, in lower case.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn shape(self) -> Shape {
                match self { $(Self::$name => Shape::$shape,)* }
            }
        }
    };
}

properties! {
    PayloadFormat = 1, Byte, "payload format indicator";
    MessageExpiry = 2, FourBytes, "message expiry interval";
    ContentType = 3, Text, "content type";
    ResponseTopic = 8, Text, "response topic";
    CorrelationData = 9, Text, "correlation data";
    SubscriptionId = 11, VarInt, "subscription identifier";
    SessionExpiry = 17, FourBytes, "session expiry interval";
    AssignedClientId = 18, Text, "assigned client identifier";
    ServerKeepAlive = 19, TwoBytes, "server keep alive";
    AuthenticationMethod = 21, Text, "authentication method";
    AuthenticationData = 22, Text, "authentication data";
    RequestProblemInformation = 23, Byte, "request problem information";
    WillDelay = 24, FourBytes, "will delay interval";
    RequestResponseInformation = 25, Byte, "request response information";
    ResponseInformation = 26, Text, "response information";
    ServerReference = 28, Text, "server reference";
    ReasonString = 31, Text, "reason string";
    ReceiveMax = 33, TwoBytes, "receive maximum";
    TopicAliasMax = 34, TwoBytes, "topic alias maximum";
    TopicAlias = 35, TwoBytes, "topic alias";
    MaximumQos = 36, Byte, "maximum QoS";
    RetainAvailable = 37, Byte, "retain available";
    UserProperty = 38, TextPair, "user property";
    PacketBytesMax = 39, FourBytes, "maximum packet size";
    WildcardAvailable = 40, Byte, "wildcard subscription available";
    SubscriptionIdsAvailable = 41, Byte, "subscription identifiers available";
    SharedAvailable = 42, Byte, "shared subscription available";
}

/// A property section being read: every property once, user properties set aside.
///
/// [`Section::next`] names the next property that is not a user property; the caller then takes its value with the
/// method of its type, or refuses it with [`Section::not_allowed`].
pub(crate) struct Section<'a> {
    reader: Reader<'a>,
    current: PropertyId,
    /// The section from the current property on.
    start: &'a [u8],
    /// Bit n: the property with identifier n has been read.
    seen: u64,
    user: OpenStretch<'a>,
    user_properties_max: usize,
}

impl<'a> Section<'a> {
    /// Takes the section's length and bytes off `reader`.
    #[inline]
    pub(crate) fn new(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, DecodeError> {
        const FIELD: &str = "property length";
        let len = reader.var_int(FIELD)? as usize;
        let bytes = reader.bytes(len, FIELD)?;
        Ok(Self {
            reader: Reader::new(bytes, reader.packet_type()),
            current: PropertyId::UserProperty,
            start: bytes,
            seen: 0,
            user: OpenStretch::default(),
            user_properties_max: limits.user_properties_max,
        })
    }

    /// The identifier of the next property that is not a user property; `None` at the end of the section.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<PropertyId>, DecodeError> {
        while !self.reader.is_empty() {
            self.start = self.reader.rest();
            let id = self.reader.u8("property identifier")?;
            let Some(id) = PropertyId::from_u8(id) else {
                return Err(self.reader.error(DecodeErrorKind::UnknownProperty, "property identifier"));
            };
            self.current = id;
            if id == PropertyId::UserProperty {
                self.reader.text(id.name())?;
                self.reader.text(id.name())?;
                if self.user.len() >= self.user_properties_max {
                    return Err(self.refusal(DecodeErrorKind::TooMany));
                }
                self.user.extend(self.start, self.reader.rest());
                continue;
            }
            let bit = 1_u64 << id as u8;
            if self.seen & bit != 0 && id != PropertyId::SubscriptionId {
                return Err(self.refusal(DecodeErrorKind::DuplicateProperty));
            }
            self.seen |= bit;
            return Ok(Some(id));
        }
        Ok(None)
    }

    /// The current property must not be in this packet.
    pub(crate) const fn not_allowed(&self) -> DecodeError {
        self.refusal(DecodeErrorKind::PropertyNotAllowed)
    }

    /// The current property is refused.
    pub(crate) const fn refusal(&self, kind: DecodeErrorKind) -> DecodeError {
        self.reader.error(kind, self.current.name())
    }

    /// A refusal of another property of this section.
    pub(crate) const fn refusal_of(&self, id: PropertyId, kind: DecodeErrorKind) -> DecodeError {
        self.reader.error(kind, id.name())
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.reader.u8(self.current.name())
    }

    /// 0 or 1; anything else is a protocol error.
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.refusal(DecodeErrorKind::Forbidden)),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.reader.u16(self.current.name())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.reader.u32(self.current.name())
    }

    pub(crate) fn non_zero_u16(&mut self) -> Result<NonZeroU16, DecodeError> {
        self.reader.non_zero_u16(self.current.name())
    }

    pub(crate) fn non_zero_u32(&mut self) -> Result<NonZeroU32, DecodeError> {
        self.reader.non_zero_u32(self.current.name())
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        self.reader.text(self.current.name())
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        self.reader.binary(self.current.name())
    }

    /// The response topic: a topic name, so without wildcards (`[MQTT-3.3.2-14]`).
    pub(crate) fn response_topic(&mut self, limits: &Limits) -> Result<TopicName<'a>, DecodeError> {
        let text = self.reader.text_with_nul(self.current.name())?;
        TopicName::new(text, limits.topic_levels_max)
            .map_err(|error| self.refusal(DecodeErrorKind::ResponseTopic(error)))
    }

    /// A subscription identifier, 1 to 268,435,455.
    pub(crate) fn subscription_id(&mut self) -> Result<NonZeroU32, DecodeError> {
        let id = self.reader.var_int(self.current.name())?;
        NonZeroU32::new(id).ok_or_else(|| self.refusal(DecodeErrorKind::Zero))
    }

    /// The section from the identifier of the current property on, for a [`Stretch`].
    pub(crate) const fn current_property(&self) -> &'a [u8] {
        self.start
    }

    /// The section from the current position on, for a [`Stretch`].
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// The user properties, once the section has been read to its end.
    pub(crate) const fn user_properties(&self) -> UserProperties<'a> {
        UserProperties(Users::Wire(self.user.close()))
    }
}

/// Part of a property section from the first to the last property of one kind, others between them included.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stretch<'a> {
    bytes: &'a [u8],
    count: u32,
}

/// A [`Stretch`] while its section is being read.
#[derive(Default)]
pub(crate) struct OpenStretch<'a> {
    /// From the first property of the kind to the end of the section.
    from_first: &'a [u8],
    stretch: Stretch<'a>,
}

impl<'a> OpenStretch<'a> {
    /// One more property, from `start` to just before `rest`; both reach to the end of the section.
    pub(crate) fn extend(&mut self, start: &'a [u8], rest: &'a [u8]) {
        if self.stretch.count == 0 {
            self.from_first = start;
        }
        self.stretch.bytes = &self.from_first[..self.from_first.len() - rest.len()];
        self.stretch.count += 1;
    }

    const fn len(&self) -> usize {
        self.stretch.count as usize
    }

    pub(crate) const fn close(&self) -> Stretch<'a> {
        self.stretch
    }
}

impl<'a> Stretch<'a> {
    const fn values(self, id: PropertyId) -> Values<'a> {
        Values { rest: self.bytes, id }
    }
}

/// The values of all properties of one kind in checked bytes.
///
/// The bytes were checked when the section was read, so that each `?` below only ends the walk at its end.
#[derive(Clone)]
struct Values<'a> {
    rest: &'a [u8],
    id: PropertyId,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (&id, rest) = self.rest.split_first()?;
            let id = PropertyId::from_u8(id)?;
            let (value, rest) = rest.split_at_checked(value_bytes(id.shape(), rest)?)?;
            self.rest = rest;
            if id == self.id {
                return Some(value);
            }
        }
    }
}

/// The length of a value of this shape at the start of `rest`.
fn value_bytes(shape: Shape, rest: &[u8]) -> Option<usize> {
    match shape {
        Shape::Byte => Some(1),
        Shape::TwoBytes => Some(2),
        Shape::FourBytes => Some(4),
        Shape::VarInt => rest.iter().position(|&byte| byte < 0x80).map(|at| at + 1),
        Shape::Text => text_bytes(rest),
        Shape::TextPair => {
            let key = text_bytes(rest)?;
            Some(key + text_bytes(rest.get(key..)?)?)
        }
    }
}

/// The length of a text or binary value, its two length bytes included.
fn text_bytes(rest: &[u8]) -> Option<usize> {
    rest.first_chunk::<2>().map(|&len| 2 + usize::from(u16::from_be_bytes(len)))
}

/// The user properties of a packet: pairs of text, in the order in which they were sent (`[MQTT-3.3.2-18]`).
///
/// A view, either of a received packet's bytes (read again at each iteration, nothing is allocated) or of a slice of
/// pairs that are to be sent.
///
/// ```
/// use quelea_mqtt::UserProperties;
/// let pairs = [("trace", "7"), ("trace", "8")];
/// assert_eq!(UserProperties::from(&pairs[..]).iter().collect::<Vec<_>>(), pairs);
/// ```
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a>(Users<'a>);

#[derive(Clone, Copy)]
enum Users<'a> {
    Wire(Stretch<'a>),
    Pairs(&'a [(&'a str, &'a str)]),
}

impl Default for Users<'_> {
    fn default() -> Self {
        Self::Pairs(&[])
    }
}

impl<'a> UserProperties<'a> {
    /// The pairs, in order; a key may come more than once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        let (stretch, pairs) = match self.0 {
            Users::Wire(stretch) => (stretch, &[][..]),
            Users::Pairs(pairs) => (Stretch::default(), pairs),
        };
        stretch.values(PropertyId::UserProperty).map_while(pair).chain(pairs.iter().copied())
    }

    /// The number of pairs.
    pub const fn len(&self) -> usize {
        match self.0 {
            Users::Wire(stretch) => stretch.count as usize,
            Users::Pairs(pairs) => pairs.len(),
        }
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn write<S: Sink>(&self, out: &mut S) {
        match self.0 {
            // Already checked and laid out: copied as they are.
            Users::Wire(stretch) => {
                for value in stretch.values(PropertyId::UserProperty) {
                    out.u8(PropertyId::UserProperty as u8);
                    out.bytes(value);
                }
            }
            Users::Pairs(pairs) => {
                for &(key, value) in pairs {
                    out.u8(PropertyId::UserProperty as u8);
                    out.text(PropertyId::UserProperty.name(), key);
                    out.text(PropertyId::UserProperty.name(), value);
                }
            }
        }
    }
}

/// The two texts of a checked user property.
fn pair(value: &[u8]) -> Option<(&str, &str)> {
    let (key, value) = value.split_at_checked(text_bytes(value)?)?;
    Some((core::str::from_utf8(key.get(2..)?).ok()?, core::str::from_utf8(value.get(2..)?).ok()?))
}

impl<'a> From<&'a [(&'a str, &'a str)]> for UserProperties<'a> {
    fn from(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self(Users::Pairs(pairs))
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The subscription identifiers of a PUBLISH from a server: a view, as [`UserProperties`] is.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIds<'a>(Ids<'a>);

#[derive(Clone, Copy)]
enum Ids<'a> {
    Wire(Stretch<'a>),
    List(&'a [u32]),
}

impl Default for Ids<'_> {
    fn default() -> Self {
        Self::List(&[])
    }
}

impl<'a> SubscriptionIds<'a> {
    pub(crate) const fn from_stretch(stretch: Stretch<'a>) -> Self {
        Self(Ids::Wire(stretch))
    }

    /// The identifiers, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        let (stretch, list) = match self.0 {
            Ids::Wire(stretch) => (stretch, &[][..]),
            Ids::List(list) => (Stretch::default(), list),
        };
        stretch.values(PropertyId::SubscriptionId).map(var_int).chain(list.iter().copied())
    }

    /// The number of identifiers.
    pub const fn len(&self) -> usize {
        match self.0 {
            Ids::Wire(stretch) => stretch.count as usize,
            Ids::List(list) => list.len(),
        }
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn write<S: Sink>(&self, out: &mut S) {
        for id in self.iter() {
            out.subscription_id(id);
        }
    }
}

/// The value of a checked variable byte integer.
fn var_int(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 7 | u32::from(byte & 0x7F))
}

impl<'a> From<&'a [u32]> for SubscriptionIds<'a> {
    fn from(list: &'a [u32]) -> Self {
        Self(Ids::List(list))
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
