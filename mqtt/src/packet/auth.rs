//! AUTH: a step of enhanced authentication (MQTT 5.0 §3.15).

use bytes::BytesMut;

use crate::ReasonCode;
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{PacketType, Sender};
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::version::Version;
use crate::writer::{self, Body, Properties, Sink};

/// A step of enhanced authentication; only MQTT 5.0 has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success (server), continue (both) or re-authenticate (client).
    pub reason: ReasonCode,
    /// The method, the same as in CONNECT. `None` only in the packet without any body, which says success.
    pub method: Option<&'a str>,
    /// What the method has to say.
    pub data: Option<&'a [u8]>,
    /// Text for people, for diagnosis only.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(PacketType::Auth.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self) -> usize {
        writer::encoded_bytes(self, Version::V5)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        if context.version < Version::V5 {
            return Err(body.error(DecodeErrorKind::NotInVersion, "packet type"));
        }
        let mut auth = Self { reason: ReasonCode::SUCCESS, ..Self::default() };
        // §3.15.2.1: reason code and properties are left out together, or not at all.
        let has_body = !body.is_empty();
        if has_body {
            auth.reason = ReasonCode::from_u8(body.u8("reason code")?);
        }
        let allowed = match auth.reason {
            ReasonCode::SUCCESS => context.sender == Sender::Server,
            ReasonCode::CONTINUE_AUTHENTICATION => true,
            ReasonCode::REAUTHENTICATE => context.sender == Sender::Client,
            _ => false,
        };
        if !allowed {
            return Err(body.error(DecodeErrorKind::ReasonNotAllowed, "reason code"));
        }
        if !has_body {
            return Ok(auth);
        }
        let mut section = Section::new(&mut body, context.limits)?;
        while let Some(id) = section.next()? {
            match id {
                PropertyId::AuthenticationMethod => auth.method = Some(section.text()?),
                PropertyId::AuthenticationData => auth.data = Some(section.binary()?),
                PropertyId::ReasonString => auth.reason_string = Some(section.text()?),
                _ => return Err(section.not_allowed()),
            }
        }
        if auth.method.is_none() {
            // §3.15.2.2.2.
            return Err(section.refusal_of(PropertyId::AuthenticationMethod, DecodeErrorKind::Missing));
        }
        auth.user_properties = section.user_properties();
        body.finish()?;
        Ok(auth)
    }
}

impl Body for Auth<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if version < Version::V5 {
            out.refuse(EncodeError::NotInVersion("AUTH"));
            return;
        }
        if self.reason == ReasonCode::SUCCESS && self.measure() == 0 {
            return;
        }
        if self.method.is_none() {
            out.refuse(EncodeError::Invalid(PropertyId::AuthenticationMethod.name()));
        }
        out.u8(self.reason.as_u8());
        writer::write_section(self, out);
    }
}

impl Properties for Auth<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.text_property(PropertyId::AuthenticationMethod, self.method);
        out.binary_property(PropertyId::AuthenticationData, self.data);
        out.text_property(PropertyId::ReasonString, self.reason_string);
        self.user_properties.write(out);
    }
}
