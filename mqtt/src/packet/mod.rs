//! The packets: one module each, every packet in both directions.
//!
//! [`decode`] takes one whole packet to pieces. The structs borrow from it; building one by hand and encoding it is the
//! way back.

pub(crate) mod ack;
pub(crate) mod auth;
pub(crate) mod connack;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod publish;
pub(crate) mod suback;
pub(crate) mod subscribe;
pub(crate) mod unsubscribe;

use bytes::BytesMut;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{Limits, PacketType, Sender, peek_frame};
use crate::packet::ack::{Ack, AckKind};
use crate::packet::auth::Auth;
use crate::packet::connack::ConnAck;
use crate::packet::connect::Connect;
use crate::packet::disconnect::Disconnect;
use crate::packet::publish::Publish;
use crate::packet::suback::{SubAck, SubAckKind};
use crate::packet::subscribe::Subscribe;
use crate::packet::unsubscribe::Unsubscribe;
use crate::reader::Reader;
use crate::version::Version;

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the packet of its name")]
// The variants differ in size; a packet is looked at where it was decoded and never stored.
#[allow(clippy::large_enum_variant)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(SubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// What a packet's decoder knows of its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Context<'l> {
    pub(crate) version: Version,
    pub(crate) sender: Sender,
    pub(crate) limits: &'l Limits,
}

/// Decodes one packet: `packet` must be exactly the [`packet_bytes`](crate::Frame::packet_bytes) that
/// [`peek_frame`] measured. Nothing is copied or allocated.
///
/// `version` is the one that the connection's CONNECT named; for CONNECT itself it is ignored.
///
/// # Errors
/// [`DecodeError`] for everything that `version` does not allow `sender` to send, and for everything above `limits`.
/// A filter in SUBSCRIBE or UNSUBSCRIBE that is text but no filter is not an error here: the packet's other filters
/// count, and the bad one is answered in its place.
#[inline]
pub fn decode<'a>(
    packet: &'a [u8],
    version: Version,
    sender: Sender,
    limits: &Limits,
) -> Result<Packet<'a>, DecodeError> {
    let Some(frame) = peek_frame(packet, sender, limits)? else {
        return Err(cut_short(packet));
    };
    let Some(packet_type) = frame.packet_type() else { return Err(cut_short(packet)) };
    if frame.packet_bytes != packet.len() {
        let short = packet.len() < frame.packet_bytes;
        let kind = if short { DecodeErrorKind::Truncated } else { DecodeErrorKind::TrailingBytes };
        return Err(DecodeError::new(kind, packet_type, "packet"));
    }
    let body = Reader::new(&packet[frame.header_bytes..], packet_type);
    let context = Context { version, sender, limits };
    if packet_type == PacketType::Publish {
        return Publish::decode(frame.first, body, context);
    }
    decode_rare(frame.first, body, context)
}

/// Every packet but PUBLISH.
fn decode_rare<'a>(first: u8, body: Reader<'a>, context: Context<'_>) -> Result<Packet<'a>, DecodeError> {
    let packet_type = body.packet_type();
    if first != packet_type.first_byte() && context.version != Version::V31 {
        return Err(body.error(DecodeErrorKind::Flags, "fixed header"));
    }
    match packet_type {
        PacketType::Connect => Connect::decode(body, context).map(Packet::Connect),
        PacketType::ConnAck => ConnAck::decode(body, context).map(Packet::ConnAck),
        PacketType::Publish => Publish::decode(first, body, context),
        PacketType::PubAck => Ack::decode(body, context).map(Packet::PubAck),
        PacketType::PubRec => Ack::decode(body, context).map(Packet::PubRec),
        PacketType::PubRel => Ack::decode(body, context).map(Packet::PubRel),
        PacketType::PubComp => Ack::decode(body, context).map(Packet::PubComp),
        PacketType::Subscribe => Subscribe::decode(body, context).map(Packet::Subscribe),
        PacketType::SubAck => SubAck::decode(body, context).map(Packet::SubAck),
        PacketType::Unsubscribe => Unsubscribe::decode(body, context).map(Packet::Unsubscribe),
        PacketType::UnsubAck => SubAck::decode(body, context).map(Packet::UnsubAck),
        PacketType::PingReq => body.finish().map(|()| Packet::PingReq),
        PacketType::PingResp => body.finish().map(|()| Packet::PingResp),
        PacketType::Disconnect => Disconnect::decode(body, context).map(Packet::Disconnect),
        PacketType::Auth => Auth::decode(body, context).map(Packet::Auth),
    }
}

/// Not even the fixed header is whole.
#[cold]
fn cut_short(packet: &[u8]) -> DecodeError {
    const FIELD: &str = "fixed header";
    match packet.first().and_then(|&first| PacketType::from_first_byte(first)) {
        Some(packet_type) => DecodeError::new(DecodeErrorKind::Truncated, packet_type, FIELD),
        None => DecodeError::without_type(DecodeErrorKind::Truncated, FIELD),
    }
}

impl Packet<'_> {
    /// The type of the packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`. A CONNECT names its own version; `version` counts for all others.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Connect(connect) => connect.encode(connect.version, out),
            Self::ConnAck(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::PubAck(ack) => ack.encode(AckKind::PubAck, version, out),
            Self::PubRec(ack) => ack.encode(AckKind::PubRec, version, out),
            Self::PubRel(ack) => ack.encode(AckKind::PubRel, version, out),
            Self::PubComp(ack) => ack.encode(AckKind::PubComp, version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::SubAck(suback) => suback.encode(SubAckKind::SubAck, version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::UnsubAck(unsuback) => unsuback.encode(SubAckKind::UnsubAck, version, out),
            Self::PingReq => {
                encode_ping_req(out);
                Ok(())
            }
            Self::PingResp => {
                encode_ping_resp(out);
                Ok(())
            }
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }
}

/// Appends a PINGREQ.
pub fn encode_ping_req(out: &mut BytesMut) {
    out.extend_from_slice(&[PacketType::PingReq.first_byte(), 0]);
}

/// Appends a PINGRESP.
pub fn encode_ping_resp(out: &mut BytesMut) {
    out.extend_from_slice(&[PacketType::PingResp.first_byte(), 0]);
}
