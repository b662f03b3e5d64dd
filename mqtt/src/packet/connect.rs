//! CONNECT: the client's first packet, and the will it may carry (MQTT 5.0 §3.1, 3.1.1 §3.1).

use core::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{Limits, PacketType};
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::topic::TopicName;
use crate::version::{QoS, Version};
use crate::writer::{self, Body, Properties, Sink};

/// A client introduces itself. The fields from `session_expiry_s` on are properties of MQTT 5.0, `None` in 3.x.
///
/// An empty client identifier decodes in every version and with every `clean_start`: whether the server gives the
/// client one, or answers 0x85, is for the session to say (`[MQTT-3.1.3-6]`, 3.1.1: `[MQTT-3.1.3-8]`). So is the limit
/// of 23 characters that MQTT 3.1 speaks of and servers do not hold clients to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the whole connection speaks.
    pub version: Version,
    /// Forget the session there may be; Clean Session in 3.x.
    pub clean_start: bool,
    /// Seconds without a packet after which the server may give up (1.5 times); 0 = never.
    pub keep_alive_s: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// To be published when the connection ends without DISCONNECT.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub user_name: Option<&'a str>,
    /// The password, binary.
    pub password: Option<&'a [u8]>,
    /// Seconds for which the session outlives the connection; `u32::MAX` = for ever, `None` = 0.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the client takes at once; `None` = 65,535.
    pub receive_max: Option<NonZeroU16>,
    /// Bytes of a packet that the client takes; `None` = no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The highest topic alias that the client takes; `None` = 0.
    pub topic_alias_max: Option<u16>,
    /// Whether the client would like response information in CONNACK; `None` = no.
    pub request_response_information: Option<bool>,
    /// Whether reason strings and user properties may come in any packet; `None` = yes.
    pub request_problem_information: Option<bool>,
    /// User properties of the connection.
    pub user_properties: UserProperties<'a>,
    /// The name of the method of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// What the method has to say.
    pub authentication_data: Option<&'a [u8]>,
}

/// A message that the server publishes for a client that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where to publish.
    pub topic: TopicName<'a>,
    /// What to publish.
    pub payload: &'a [u8],
    /// At which quality of service.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// Seconds to wait before it is published; 0 if the property is not there.
    pub delay_s: u32,
    /// Whether the payload claims to be UTF-8; `None` if the property is not there.
    pub payload_is_utf8: Option<bool>,
    /// Lifetime of the message in seconds, from when it is published.
    pub message_expiry_s: Option<u32>,
    /// The content type, usually a MIME type.
    pub content_type: Option<&'a str>,
    /// Where a response is expected.
    pub response_topic: Option<TopicName<'a>>,
    /// What a response should carry back.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties of the message.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Will<'a> {
    /// A will without properties.
    pub fn new(topic: TopicName<'a>, payload: &'a [u8], qos: QoS, retain: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain,
            delay_s: 0,
            payload_is_utf8: None,
            message_expiry_s: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: UserProperties::default(),
        }
    }

    fn decode(body: &mut Reader<'a>, flags: Flags, context: Context<'_>) -> Result<Self, DecodeError> {
        let Some(qos) = QoS::from_u8(flags.will_qos()) else {
            // `[MQTT-3.1.2-12]`.
            return Err(body.error(DecodeErrorKind::Malformed, "will QoS"));
        };
        let section =
            (context.version == Version::V5).then(|| Section::new(body, context.limits)).transpose()?;
        let text = body.text_with_nul("will topic")?;
        let topic = TopicName::new(text, context.limits.topic_levels_max)
            .map_err(|error| body.error(DecodeErrorKind::Topic(error), "will topic"))?;
        let mut will = Self::new(topic, &[], qos, flags.has(Flags::WILL_RETAIN));
        if let Some(section) = section {
            will.read_properties(section, context.limits)?;
        }
        will.payload = body.binary("will payload")?;
        Ok(will)
    }

    fn read_properties(&mut self, mut section: Section<'a>, limits: &Limits) -> Result<(), DecodeError> {
        while let Some(id) = section.next()? {
            match id {
                PropertyId::WillDelay => self.delay_s = section.u32()?,
                PropertyId::PayloadFormat => self.payload_is_utf8 = Some(section.flag()?),
                PropertyId::MessageExpiry => self.message_expiry_s = Some(section.u32()?),
                PropertyId::ContentType => self.content_type = Some(section.text()?),
                PropertyId::ResponseTopic => self.response_topic = Some(section.response_topic(limits)?),
                PropertyId::CorrelationData => self.correlation_data = Some(section.binary()?),
                _ => return Err(section.not_allowed()),
            }
        }
        self.user_properties = section.user_properties();
        Ok(())
    }
}

impl<'a> Connect<'a> {
    /// A clean start without will, credentials or properties.
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id,
            will: None,
            user_name: None,
            password: None,
            session_expiry_s: None,
            receive_max: None,
            packet_bytes_max: None,
            topic_alias_max: None,
            request_response_information: None,
            request_problem_information: None,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }

    /// Appends the packet to `out`, in `version`, which must be the packet's own.
    ///
    /// Properties that 3.x lacks are left out there, except an authentication method.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        if version != self.version {
            return Err(EncodeError::Invalid("protocol version"));
        }
        writer::encode(PacketType::Connect.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self) -> usize {
        writer::encoded_bytes(self, self.version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        let version = read_protocol(&mut body)?;
        let context = Context { version, ..context };
        let flags = Flags::read(&mut body, version)?;
        let keep_alive_s = body.u16("keep alive")?;
        let mut connect =
            Self { keep_alive_s, clean_start: flags.has(Flags::CLEAN_START), ..Self::new(version, "") };
        if version == Version::V5 {
            connect.read_properties(Section::new(&mut body, context.limits)?)?;
        }
        connect.client_id = body.text("client identifier")?;
        if flags.has(Flags::WILL) {
            connect.will = Some(Will::decode(&mut body, flags, context)?);
        }
        // MQTT 3.1 (CONNECT, "User name and password flags"): the packet's length overrules these two flags, so that
        // credentials that are announced and not there are no fault.
        let overruled = |body: &Reader<'_>| version == Version::V31 && body.is_empty();
        if flags.has(Flags::USER_NAME) && !overruled(&body) {
            connect.user_name = Some(body.text("user name")?);
        }
        if flags.has(Flags::PASSWORD) && !overruled(&body) {
            connect.password = Some(body.binary("password")?);
        }
        body.finish()?;
        Ok(connect)
    }

    fn read_properties(&mut self, mut section: Section<'a>) -> Result<(), DecodeError> {
        while let Some(id) = section.next()? {
            match id {
                PropertyId::SessionExpiry => self.session_expiry_s = Some(section.u32()?),
                PropertyId::ReceiveMax => self.receive_max = Some(section.non_zero_u16()?),
                PropertyId::PacketBytesMax => self.packet_bytes_max = Some(section.non_zero_u32()?),
                PropertyId::TopicAliasMax => self.topic_alias_max = Some(section.u16()?),
                PropertyId::RequestResponseInformation => {
                    self.request_response_information = Some(section.flag()?);
                }
                PropertyId::RequestProblemInformation => {
                    self.request_problem_information = Some(section.flag()?);
                }
                PropertyId::AuthenticationMethod => self.authentication_method = Some(section.text()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(section.binary()?),
                _ => return Err(section.not_allowed()),
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            // §3.1.2.11.10.
            return Err(section.refusal_of(PropertyId::AuthenticationMethod, DecodeErrorKind::Missing));
        }
        self.user_properties = section.user_properties();
        Ok(())
    }
}

/// Protocol name and level; anything but the three documented pairs is refused with 0x84.
fn read_protocol(body: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = body.binary("protocol name")?;
    let level = body.u8("protocol version")?;
    Version::from_name_and_level(name, level)
        .ok_or_else(|| body.error(DecodeErrorKind::UnsupportedProtocol, "protocol name and version"))
}

/// The connect flags: user name, password, will retain, will QoS (2), will, clean start, reserved.
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    const RESERVED: u8 = 0x01;
    const CLEAN_START: u8 = 0x02;
    const WILL: u8 = 0x04;
    const WILL_QOS: u8 = 0x18;
    const WILL_RETAIN: u8 = 0x20;
    const PASSWORD: u8 = 0x40;
    const USER_NAME: u8 = 0x80;

    fn read(body: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        const FIELD: &str = "connect flags";
        let flags = Self(body.u8(FIELD)?);
        // `[MQTT-3.1.2-3]`.
        if flags.has(Self::RESERVED) {
            return Err(body.error(DecodeErrorKind::ReservedBits, FIELD));
        }
        // `[MQTT-3.1.2-11]`, `[MQTT-3.1.2-13]`: without a will its QoS and retain are 0.
        if !flags.has(Self::WILL) && flags.0 & (Self::WILL_QOS | Self::WILL_RETAIN) != 0 {
            return Err(body.error(DecodeErrorKind::Malformed, FIELD));
        }
        // `[MQTT-3.1.2-22]` of 3.1.1; 5.0 allows a password alone.
        if version < Version::V5 && flags.has(Self::PASSWORD) && !flags.has(Self::USER_NAME) {
            return Err(body.error(DecodeErrorKind::Malformed, FIELD));
        }
        Ok(flags)
    }

    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    const fn will_qos(self) -> u8 {
        (self.0 & Self::WILL_QOS) >> 3
    }

    fn of(connect: &Connect<'_>) -> Self {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = connect
            .will
            .map_or(0, |will| Self::WILL | will.qos.as_u8() << 3 | bit(will.retain, Self::WILL_RETAIN));
        Self(
            will | bit(connect.clean_start, Self::CLEAN_START)
                | bit(connect.password.is_some(), Self::PASSWORD)
                | bit(connect.user_name.is_some(), Self::USER_NAME),
        )
    }
}

impl Body for Connect<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if version < Version::V5 {
            if self.password.is_some() && self.user_name.is_none() {
                out.refuse(EncodeError::NotInVersion("password without user name"));
            }
            if self.authentication_method.is_some() {
                out.refuse(EncodeError::NotInVersion(PropertyId::AuthenticationMethod.name()));
            }
        }
        out.text("protocol name", version.name());
        out.u8(version.level());
        out.u8(Flags::of(self).0);
        out.u16(self.keep_alive_s);
        if version == Version::V5 {
            writer::write_section(self, out);
        }
        out.text("client identifier", self.client_id);
        if let Some(will) = &self.will {
            if version == Version::V5 {
                writer::write_section(will, out);
            }
            out.text("will topic", will.topic.as_str());
            out.binary("will payload", will.payload);
        }
        if let Some(user_name) = self.user_name {
            out.text("user name", user_name);
        }
        if let Some(password) = self.password {
            out.binary("password", password);
        }
    }
}

impl Properties for Connect<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            out.refuse(EncodeError::Invalid(PropertyId::AuthenticationMethod.name()));
        }
        out.u32_property(PropertyId::SessionExpiry, self.session_expiry_s);
        out.u16_property(PropertyId::ReceiveMax, self.receive_max.map(NonZeroU16::get));
        out.u32_property(PropertyId::PacketBytesMax, self.packet_bytes_max.map(NonZeroU32::get));
        out.u16_property(PropertyId::TopicAliasMax, self.topic_alias_max);
        out.flag_property(PropertyId::RequestResponseInformation, self.request_response_information);
        out.flag_property(PropertyId::RequestProblemInformation, self.request_problem_information);
        out.text_property(PropertyId::AuthenticationMethod, self.authentication_method);
        out.binary_property(PropertyId::AuthenticationData, self.authentication_data);
        self.user_properties.write(out);
    }
}

impl Properties for Will<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(PropertyId::WillDelay, Some(self.delay_s).filter(|&delay_s| delay_s > 0));
        out.flag_property(PropertyId::PayloadFormat, self.payload_is_utf8);
        out.u32_property(PropertyId::MessageExpiry, self.message_expiry_s);
        out.text_property(PropertyId::ContentType, self.content_type);
        out.text_property(PropertyId::ResponseTopic, self.response_topic.map(TopicName::as_str));
        out.binary_property(PropertyId::CorrelationData, self.correlation_data);
        self.user_properties.write(out);
    }
}
