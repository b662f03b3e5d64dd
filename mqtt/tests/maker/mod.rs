//! Makes legal packets of every type and version out of bytes: each byte is a choice.
//!
//! The property tests feed it what proptest draws (which shrinks well: fewer and smaller bytes make simpler packets),
//! the differential test in `benches` feeds it a seeded generator. Text and binary fields borrow from the choices
//! themselves or from a pool of texts that codecs stumble over.
#![allow(dead_code, reason = "each crate that includes this module uses its own part of it")]

use core::num::{NonZeroU16, NonZeroU32};

use quelea_mqtt::*;

/// All packet types.
pub(crate) const PACKET_TYPES: [PacketType; 15] = [
    PacketType::Connect,
    PacketType::ConnAck,
    PacketType::Publish,
    PacketType::PubAck,
    PacketType::PubRec,
    PacketType::PubRel,
    PacketType::PubComp,
    PacketType::Subscribe,
    PacketType::SubAck,
    PacketType::Unsubscribe,
    PacketType::UnsubAck,
    PacketType::PingReq,
    PacketType::PingResp,
    PacketType::Disconnect,
    PacketType::Auth,
];

/// Texts of legal characters: ASCII, two to four bytes, a byte order mark, control characters, non-characters.
const TEXTS: [&str; 12] = [
    "",
    "a",
    "quelea/1",
    "ü",
    "ключ",
    "\u{FEFF}bom",
    "\u{1}\u{1F}\u{7F}\u{9F}",
    "\u{FFFF}",
    "\u{10FFFF}",
    "🐦",
    "+/#/$share/",
    "text that is a little longer than one hundred and twenty-eight bytes, so that lengths around it need two bytes \
     where shorter ones need just one",
];

const TOPICS: [&str; 10] = [
    "t",
    "/",
    "a/b/c",
    "//",
    "$SYS/broker",
    "$share/x",
    "ü/a",
    "\u{FEFF}",
    " ",
    "a/very/long/topic/that/needs/more/than/one/hundred/and/twenty/eight/bytes/in/all/so/that/the/remaining/length/has/two/bytes/x",
];

const FILTERS: [&str; 10] =
    ["#", "+", "a/+/c", "a/#", "/+", "$SYS/#", "$share/g/a/#", "$share/ü/+", "t", "+/+/+/+/+/+/+/+/+/+/+/+"];

/// The words of an acknowledgement: legal reasons of each packet, success first.
fn reasons(packet: PacketType, version: Version, sender: Sender) -> &'static [u8] {
    match (packet, version, sender) {
        (PacketType::ConnAck, Version::V5, _) => &[
            0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9F,
        ],
        (PacketType::ConnAck, _, _) => &[0, 0x84, 0x85, 0x86, 0x87, 0x88],
        (PacketType::SubAck, Version::V5, _) => {
            &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]
        }
        (PacketType::SubAck, _, _) => &[0, 1, 2, 0x80],
        (PacketType::UnsubAck, _, _) => &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        (_, Version::V31 | Version::V311, _) => &[0],
        (PacketType::PubAck | PacketType::PubRec, _, Sender::Server) => {
            &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
        }
        (PacketType::PubAck | PacketType::PubRec, _, Sender::Client) => {
            &[0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
        }
        (PacketType::PubRel | PacketType::PubComp, _, _) => &[0, 0x92],
        (PacketType::Disconnect, _, Sender::Client) => {
            &[0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x99]
        }
        (PacketType::Disconnect, _, Sender::Server) => {
            &[0, 0x81, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x9D, 0xA0, 0xA2]
        }
        (PacketType::Auth, _, Sender::Client) => &[0x18, 0x19],
        (PacketType::Auth, _, Sender::Server) => &[0, 0x18],
        _ => &[0],
    }
}

/// Whether `sender` sends packets of this type in `version`.
pub(crate) fn is_sent(packet: PacketType, version: Version, sender: Sender) -> bool {
    match packet {
        PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
            sender == Sender::Client
        }
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            sender == Sender::Server
        }
        PacketType::Disconnect => version == Version::V5 || sender == Sender::Client,
        PacketType::Auth => version == Version::V5,
        _ => true,
    }
}

/// A row of choices; when it is used up, every further choice is the first one.
pub(crate) struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    pub(crate) fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| make(self))
    }

    pub(crate) fn binary(&mut self) -> &'a [u8] {
        let len = usize::from(self.u8() % 40).min(self.bytes.len());
        let (bytes, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        bytes
    }

    pub(crate) fn text(&mut self) -> &'a str {
        if self.bool() {
            return self.pick(&TEXTS);
        }
        match core::str::from_utf8(self.binary()) {
            Ok(text) if !text.contains('\0') => text,
            _ => self.pick(&TEXTS),
        }
    }

    pub(crate) fn topic(&mut self) -> TopicName<'a> {
        let text = if self.bool() { self.pick(&TOPICS) } else { self.text() };
        TopicName::new(text, 128).unwrap_or(TopicName::new("t", 128).expect("a topic"))
    }

    pub(crate) fn filter(&mut self) -> SubscribeFilter<'a> {
        let text = if self.bool() { self.pick(&FILTERS) } else { self.text() };
        SubscribeFilter::parse(text, 128).unwrap_or(SubscribeFilter::parse("f", 128).expect("a filter"))
    }

    pub(crate) fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    pub(crate) fn packet_id(&mut self) -> PacketId {
        PacketId::new(self.u16()).unwrap_or(PacketId::MIN)
    }

    pub(crate) fn non_zero_u16(&mut self) -> NonZeroU16 {
        NonZeroU16::new(self.u16()).unwrap_or(NonZeroU16::MIN)
    }

    pub(crate) fn non_zero_u32(&mut self) -> NonZeroU32 {
        NonZeroU32::new(self.u32()).unwrap_or(NonZeroU32::MIN)
    }

    pub(crate) fn subscription_id(&mut self) -> u32 {
        match self.u8() % 6 {
            0 => 1,
            1 => 127 + u32::from(self.bool()),
            2 => 16_383 + u32::from(self.bool()),
            3 => 2_097_151 + u32::from(self.bool()),
            4 => SUBSCRIPTION_ID_MAX,
            _ => self.u32() % SUBSCRIPTION_ID_MAX + 1,
        }
    }

    pub(crate) fn pairs(&mut self) -> Vec<(&'a str, &'a str)> {
        let count = self.pick(&[0, 0, 1, 2, 5]);
        (0..count).map(|_| (self.text(), self.text())).collect()
    }
}

/// What packets borrow that the choices cannot lend: lists.
#[derive(Default)]
pub(crate) struct Lists<'a> {
    pairs: Vec<(&'a str, &'a str)>,
    will_pairs: Vec<(&'a str, &'a str)>,
    subscriptions: Vec<RequestedSubscription<'a>>,
    filters: Vec<SubscribeFilter<'a>>,
    ids: Vec<u32>,
    reasons: Vec<u8>,
}

impl<'a> Lists<'a> {
    /// Draws the lists for one packet.
    pub(crate) fn draw(
        choices: &mut Choices<'a>,
        packet: PacketType,
        version: Version,
        sender: Sender,
    ) -> Self {
        let mut lists = Self::default();
        let count = usize::from(choices.u8() % 4) + 1;
        if version == Version::V5 {
            lists.pairs = choices.pairs();
        }
        match packet {
            PacketType::Connect if version == Version::V5 => lists.will_pairs = choices.pairs(),
            PacketType::Publish if sender == Sender::Server && version == Version::V5 => {
                lists.ids = (1..count).map(|_| choices.subscription_id()).collect();
            }
            PacketType::Subscribe => {
                lists.subscriptions = (0..count).map(|_| subscription(choices, version)).collect();
            }
            PacketType::Unsubscribe => lists.filters = (0..count).map(|_| choices.filter()).collect(),
            PacketType::UnsubAck if version < Version::V5 => {}
            PacketType::SubAck | PacketType::UnsubAck => {
                let legal = reasons(packet, version, sender);
                lists.reasons = (0..count).map(|_| choices.pick(legal)).collect();
            }
            _ => {}
        }
        lists
    }
}

fn subscription<'a>(choices: &mut Choices<'a>, version: Version) -> RequestedSubscription<'a> {
    let filter = choices.filter();
    let mut options = SubscriptionOptions::with_qos(choices.qos());
    if version == Version::V5 {
        options.no_local = choices.bool() && !filter.is_shared();
        options.retain_as_published = choices.bool();
        options.retain_handling = choices.pick(&[
            RetainHandling::SendAtSubscribe,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ]);
    }
    RequestedSubscription::new(filter, options)
}

/// A legal packet of the given type; `lists` must have been drawn for the same type, version and sender.
pub(crate) fn packet<'a>(
    choices: &mut Choices<'a>,
    lists: &'a Lists<'a>,
    packet_type: PacketType,
    version: Version,
    sender: Sender,
) -> Packet<'a> {
    match packet_type {
        PacketType::Connect => Packet::Connect(connect(choices, lists, version)),
        PacketType::ConnAck => Packet::ConnAck(connack(choices, lists, version)),
        PacketType::Publish => Packet::Publish(publish(choices, lists, version)),
        PacketType::PubAck => Packet::PubAck(ack(choices, lists, packet_type, version, sender)),
        PacketType::PubRec => Packet::PubRec(ack(choices, lists, packet_type, version, sender)),
        PacketType::PubRel => Packet::PubRel(ack(choices, lists, packet_type, version, sender)),
        PacketType::PubComp => Packet::PubComp(ack(choices, lists, packet_type, version, sender)),
        PacketType::Subscribe => {
            let mut subscribe = Subscribe::new(choices.packet_id(), &lists.subscriptions);
            if version == Version::V5 {
                subscribe.subscription_id = choices.maybe(Choices::subscription_id).and_then(NonZeroU32::new);
                subscribe.user_properties = UserProperties::from(&lists.pairs[..]);
            }
            Packet::Subscribe(subscribe)
        }
        PacketType::SubAck => Packet::SubAck(suback(choices, lists, version)),
        PacketType::Unsubscribe => {
            let mut unsubscribe = Unsubscribe::new(choices.packet_id(), &lists.filters);
            unsubscribe.user_properties = UserProperties::from(&lists.pairs[..]);
            Packet::Unsubscribe(unsubscribe)
        }
        PacketType::UnsubAck => Packet::UnsubAck(suback(choices, lists, version)),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(disconnect(choices, lists, version, sender)),
        PacketType::Auth => {
            let mut auth = Auth { reason: reason(choices, packet_type, version, sender), ..Auth::default() };
            if auth.reason != ReasonCode::SUCCESS || choices.bool() {
                auth.method = Some(choices.text());
                auth.data = choices.maybe(Choices::binary);
                auth.reason_string = choices.maybe(Choices::text);
                auth.user_properties = UserProperties::from(&lists.pairs[..]);
            }
            Packet::Auth(auth)
        }
    }
}

fn reason(choices: &mut Choices<'_>, packet: PacketType, version: Version, sender: Sender) -> ReasonCode {
    ReasonCode::from_u8(choices.pick(reasons(packet, version, sender)))
}

fn connect<'a>(choices: &mut Choices<'a>, lists: &'a Lists<'a>, version: Version) -> Connect<'a> {
    let mut connect = Connect::new(version, choices.text());
    connect.clean_start = choices.bool();
    connect.keep_alive_s = choices.u16();
    connect.user_name = choices.maybe(Choices::text);
    if connect.user_name.is_some() || version == Version::V5 {
        connect.password = choices.maybe(Choices::binary);
    }
    connect.will = choices.maybe(|choices| {
        let (topic, payload, qos) = (choices.topic(), choices.binary(), choices.qos());
        let mut will = Will::new(topic, payload, qos, choices.bool());
        if version == Version::V5 {
            will.delay_s = choices.maybe(Choices::u32).unwrap_or(0);
            will.payload_is_utf8 = choices.maybe(Choices::bool);
            will.message_expiry_s = choices.maybe(Choices::u32);
            will.content_type = choices.maybe(Choices::text);
            will.response_topic = choices.maybe(Choices::topic);
            will.correlation_data = choices.maybe(Choices::binary);
            will.user_properties = UserProperties::from(&lists.will_pairs[..]);
        }
        will
    });
    if version == Version::V5 {
        connect.session_expiry_s = choices.maybe(Choices::u32);
        connect.receive_max = choices.maybe(Choices::non_zero_u16);
        connect.packet_bytes_max = choices.maybe(Choices::non_zero_u32);
        connect.topic_alias_max = choices.maybe(Choices::u16);
        connect.request_response_information = choices.maybe(Choices::bool);
        connect.request_problem_information = choices.maybe(Choices::bool);
        connect.user_properties = UserProperties::from(&lists.pairs[..]);
        connect.authentication_method = choices.maybe(Choices::text);
        if connect.authentication_method.is_some() {
            connect.authentication_data = choices.maybe(Choices::binary);
        }
    }
    connect
}

fn connack<'a>(choices: &mut Choices<'a>, lists: &'a Lists<'a>, version: Version) -> ConnAck<'a> {
    let reason = reason(choices, PacketType::ConnAck, version, Sender::Server);
    let session_present = choices.bool() && reason == ReasonCode::SUCCESS && version > Version::V31;
    let mut connack = ConnAck { session_present, reason, properties: ConnAckProperties::default() };
    if version == Version::V5 {
        let authentication_method = choices.maybe(Choices::text);
        connack.properties = ConnAckProperties {
            session_expiry_s: choices.maybe(Choices::u32),
            receive_max: choices.maybe(Choices::non_zero_u16),
            maximum_qos: choices.maybe(|choices| choices.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce])),
            retain_available: choices.maybe(Choices::bool),
            packet_bytes_max: choices.maybe(Choices::non_zero_u32),
            assigned_client_id: choices.maybe(Choices::text),
            topic_alias_max: choices.maybe(Choices::u16),
            reason_string: choices.maybe(Choices::text),
            user_properties: UserProperties::from(&lists.pairs[..]),
            wildcard_subscription_available: choices.maybe(Choices::bool),
            subscription_ids_available: choices.maybe(Choices::bool),
            shared_subscription_available: choices.maybe(Choices::bool),
            server_keep_alive_s: choices.maybe(Choices::u16),
            response_information: choices.maybe(Choices::text),
            server_reference: choices.maybe(Choices::text),
            authentication_data: authentication_method.and_then(|_| choices.maybe(Choices::binary)),
            authentication_method,
        };
    }
    connack
}

fn publish<'a>(choices: &mut Choices<'a>, lists: &'a Lists<'a>, version: Version) -> Publish<'a> {
    let mut publish = Publish::new(choices.topic(), &[]);
    publish.qos = choices.qos();
    publish.retain = choices.bool();
    if publish.qos > QoS::AtMostOnce {
        publish.dup = choices.bool();
        publish.packet_id = Some(choices.packet_id());
    }
    if version == Version::V5 {
        publish.properties = PublishProperties {
            payload_is_utf8: choices.maybe(Choices::bool),
            message_expiry_s: choices.maybe(Choices::u32),
            topic_alias: choices.maybe(Choices::non_zero_u16),
            response_topic: choices.maybe(Choices::topic),
            correlation_data: choices.maybe(Choices::binary),
            content_type: choices.maybe(Choices::text),
            user_properties: UserProperties::from(&lists.pairs[..]),
            subscription_ids: SubscriptionIds::from(&lists.ids[..]),
        };
        if publish.properties.topic_alias.is_some() && choices.bool() {
            publish.topic = None;
        }
    }
    publish.payload = choices.binary();
    publish
}

fn ack<'a>(
    choices: &mut Choices<'a>,
    lists: &'a Lists<'a>,
    packet_type: PacketType,
    version: Version,
    sender: Sender,
) -> Ack<'a> {
    let mut ack = Ack::new(choices.packet_id(), reason(choices, packet_type, version, sender));
    if version == Version::V5 {
        ack.reason_string = choices.maybe(Choices::text);
        ack.user_properties = UserProperties::from(&lists.pairs[..]);
    }
    ack
}

fn suback<'a>(choices: &mut Choices<'a>, lists: &'a Lists<'a>, version: Version) -> SubAck<'a> {
    let mut suback = SubAck::new(choices.packet_id(), &lists.reasons);
    if version == Version::V5 {
        suback.reason_string = choices.maybe(Choices::text);
        suback.user_properties = UserProperties::from(&lists.pairs[..]);
    }
    suback
}

fn disconnect<'a>(
    choices: &mut Choices<'a>,
    lists: &'a Lists<'a>,
    version: Version,
    sender: Sender,
) -> Disconnect<'a> {
    let mut disconnect = Disconnect::new(reason(choices, PacketType::Disconnect, version, sender));
    if version == Version::V5 {
        if sender == Sender::Client {
            disconnect.session_expiry_s = choices.maybe(Choices::u32);
        }
        disconnect.reason_string = choices.maybe(Choices::text);
        disconnect.server_reference = choices.maybe(Choices::text);
        disconnect.user_properties = UserProperties::from(&lists.pairs[..]);
    }
    disconnect
}

/// Changes a packet's bytes: flips, overwrites, inserts, removes, cuts off, in up to four places; a fixed header whose
/// length was right is then made right again half of the time, so that the change reaches the fields.
pub(crate) fn mutate(choices: &mut Choices<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..=choices.u8() % 4 {
        let at = usize::from(choices.u16()) % (bytes.len() + 1);
        let byte = choices.u8();
        match choices.u8() % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (byte & 7),
            1 if at < bytes.len() => {
                bytes[at] = choices.pick(&[0, 1, 2, 0x7F, 0x80, 0xFF, b'+', b'#', b'/', 0x26]);
            }
            2 if at < bytes.len() => bytes[at] = byte,
            3 => bytes.insert(at, byte),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 if choices.bool() => bytes.truncate(at),
            _ => {}
        }
    }
    if choices.bool() {
        repair_length(bytes);
    }
}

/// Makes the remaining length say what follows it, if it is one byte and stays so.
fn repair_length(bytes: &mut [u8]) {
    if let (Some(&length), Ok(real)) = (bytes.get(1), u8::try_from(bytes.len().saturating_sub(2)))
        && length < 0x80
        && real < 0x80
    {
        bytes[1] = real;
    }
}
