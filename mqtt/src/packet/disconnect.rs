//! DISCONNECT: the last packet (MQTT 5.0 §3.14).

use bytes::BytesMut;

use crate::ReasonCode;
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{PacketType, Sender};
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::version::Version;
use crate::writer::{self, Body, Properties, Sink};

/// The end of a connection. The default is the normal one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; always normal in 3.x.
    pub reason: ReasonCode,
    /// A client changes its mind about how long the session shall live (seconds).
    pub session_expiry_s: Option<u32>,
    /// Text for people, for diagnosis only.
    pub reason_string: Option<&'a str>,
    /// Where to go instead.
    pub server_reference: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self { reason, ..Self::default() }
    }

    /// Appends the packet to `out`. In 3.x it is two bytes that a client sends; a reason is left out.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then. 3.x cannot ask for the will to be published.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(PacketType::Disconnect.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        let mut disconnect = Self::default();
        if context.version < Version::V5 {
            if context.sender == Sender::Server {
                return Err(body.error(DecodeErrorKind::WrongSender, "packet type"));
            }
            body.finish()?;
            return Ok(disconnect);
        }
        // §3.14.2.1: a remaining length of 0 says normal disconnection, one of 1 that there are no properties.
        if body.is_empty() {
            return Ok(disconnect);
        }
        disconnect.reason = ReasonCode::from_u8(body.u8("reason code")?);
        if !reason_is_allowed(disconnect.reason, context.sender) {
            return Err(body.error(DecodeErrorKind::ReasonNotAllowed, "reason code"));
        }
        if body.is_empty() {
            return Ok(disconnect);
        }
        let mut section = Section::new(&mut body, context.limits)?;
        while let Some(id) = section.next()? {
            match id {
                // `[MQTT-3.14.2-2]`: never from a server.
                PropertyId::SessionExpiry if context.sender == Sender::Server => {
                    return Err(section.refusal(DecodeErrorKind::Forbidden));
                }
                PropertyId::SessionExpiry => disconnect.session_expiry_s = Some(section.u32()?),
                PropertyId::ReasonString => disconnect.reason_string = Some(section.text()?),
                PropertyId::ServerReference => disconnect.server_reference = Some(section.text()?),
                _ => return Err(section.not_allowed()),
            }
        }
        disconnect.user_properties = section.user_properties();
        body.finish()?;
        Ok(disconnect)
    }
}

/// `[MQTT-3.14.2-1]`, by the column "Sent by" of the standard's table; 0x8C stands in §2.4 only, for re-authentication.
fn reason_is_allowed(reason: ReasonCode, sender: Sender) -> bool {
    match reason {
        ReasonCode::NORMAL_DISCONNECTION
        | ReasonCode::UNSPECIFIED_ERROR
        | ReasonCode::MALFORMED_PACKET
        | ReasonCode::PROTOCOL_ERROR
        | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        | ReasonCode::TOPIC_NAME_INVALID
        | ReasonCode::RECEIVE_MAXIMUM_EXCEEDED
        | ReasonCode::TOPIC_ALIAS_INVALID
        | ReasonCode::PACKET_TOO_LARGE
        | ReasonCode::MESSAGE_RATE_TOO_HIGH
        | ReasonCode::QUOTA_EXCEEDED
        | ReasonCode::ADMINISTRATIVE_ACTION
        | ReasonCode::PAYLOAD_FORMAT_INVALID => true,
        ReasonCode::DISCONNECT_WITH_WILL => sender == Sender::Client,
        ReasonCode::NOT_AUTHORIZED
        | ReasonCode::SERVER_BUSY
        | ReasonCode::SERVER_SHUTTING_DOWN
        | ReasonCode::BAD_AUTHENTICATION_METHOD
        | ReasonCode::KEEP_ALIVE_TIMEOUT
        | ReasonCode::SESSION_TAKEN_OVER
        | ReasonCode::TOPIC_FILTER_INVALID
        | ReasonCode::RETAIN_NOT_SUPPORTED
        | ReasonCode::QOS_NOT_SUPPORTED
        | ReasonCode::USE_ANOTHER_SERVER
        | ReasonCode::SERVER_MOVED
        | ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        | ReasonCode::CONNECTION_RATE_EXCEEDED
        | ReasonCode::MAXIMUM_CONNECT_TIME
        | ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED
        | ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED => sender == Sender::Server,
        _ => false,
    }
}

impl Body for Disconnect<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if version < Version::V5 {
            if self.reason == ReasonCode::DISCONNECT_WITH_WILL {
                out.refuse(EncodeError::NotInVersion("reason code"));
            }
            return;
        }
        let bare = self.measure() == 0;
        if bare && self.reason == ReasonCode::NORMAL_DISCONNECTION {
            return;
        }
        out.u8(self.reason.as_u8());
        if !bare {
            writer::write_section(self, out);
        }
    }
}

impl Properties for Disconnect<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(PropertyId::SessionExpiry, self.session_expiry_s);
        out.text_property(PropertyId::ReasonString, self.reason_string);
        out.text_property(PropertyId::ServerReference, self.server_reference);
        self.user_properties.write(out);
    }
}
