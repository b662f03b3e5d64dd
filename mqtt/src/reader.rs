//! A cursor over one packet that refuses, with the field's name, whatever is not there.

use core::num::{NonZeroU16, NonZeroU32};

use crate::PacketId;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::frame::PacketType;

/// What is left of a packet, or of a part of it. It never hands out a byte past the end.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    packet: PacketType,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(rest: &'a [u8], packet: PacketType) -> Self {
        Self { rest, packet }
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) const fn packet_type(&self) -> PacketType {
        self.packet
    }

    /// A refusal of `field` of this packet.
    #[cold]
    pub(crate) const fn error(&self, kind: DecodeErrorKind, field: &'static str) -> DecodeError {
        DecodeError::new(kind, self.packet, field)
    }

    /// Everything has been read.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(DecodeErrorKind::TrailingBytes, "payload")) }
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.error(DecodeErrorKind::Truncated, field)),
        }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.error(DecodeErrorKind::Truncated, field)),
        }
    }

    /// All that is left.
    #[inline]
    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Reads a byte if it is 0; true if it was.
    #[inline]
    pub(crate) fn skip_zero(&mut self) -> bool {
        match self.rest.split_first() {
            Some((0, rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn non_zero_u16(&mut self, field: &'static str) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.u16(field)?).ok_or_else(|| self.error(DecodeErrorKind::Zero, field))
    }

    pub(crate) fn non_zero_u32(&mut self, field: &'static str) -> Result<NonZeroU32, DecodeError> {
        NonZeroU32::new(self.u32(field)?).ok_or_else(|| self.error(DecodeErrorKind::Zero, field))
    }

    /// `[MQTT-2.2.1-3]`: never zero.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        const FIELD: &str = "packet identifier";
        PacketId::new(self.u16(FIELD)?).ok_or_else(|| self.error(DecodeErrorKind::Zero, FIELD))
    }

    /// A variable byte integer, at most 268,435,455, in as few bytes as possible (`[MQTT-1.5.5-1]`).
    #[inline]
    pub(crate) fn var_int(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let first = self.u8(field)?;
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        let mut value = u32::from(first & 0x7F);
        for shift in [7, 14, 21] {
            let byte = self.u8(field)?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte == 0 {
                return Err(self.error(DecodeErrorKind::VarIntNotMinimal, field));
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error(DecodeErrorKind::VarIntTooLong, field))
    }

    /// Binary data: two bytes of length, then as many bytes.
    #[inline]
    pub(crate) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16(field)?);
        self.bytes(len, field)
    }

    /// A UTF-8 string: well-formed, which excludes surrogates (`[MQTT-1.5.4-1]`), and without U+0000
    /// (`[MQTT-1.5.4-2]`). Control characters and non-characters are let through (the standard says SHOULD NOT), and
    /// U+FEFF is a character like any other, wherever it stands (`[MQTT-1.5.4-3]`).
    #[inline]
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let text = self.text_with_nul(field)?;
        if text.as_bytes().contains(&0) {
            return Err(self.error(DecodeErrorKind::Nul, field));
        }
        Ok(text)
    }

    /// A UTF-8 string whose user looks for U+0000 himself: topics do so together with wildcards.
    #[inline]
    pub(crate) fn text_with_nul(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.binary(field)?;
        core::str::from_utf8(bytes).map_err(|_| self.error(DecodeErrorKind::NotUtf8, field))
    }
}
