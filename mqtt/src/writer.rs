//! Writing packets: measure first, then write, by the same code.
//!
//! A packet describes its bytes once, against a [`Sink`]. [`Count`] is the sink that adds up lengths and notes what
//! cannot be written; `BytesMut` and `Vec` are those that take the bytes. So a length on the wire cannot differ from what
//! follows it, and a refused packet leaves nothing behind.

use bytes::BytesMut;

use crate::error::EncodeError;
use crate::frame::PACKET_BYTES_MAX;
use crate::property::{PropertyId, SUBSCRIPTION_ID_MAX};
use crate::version::Version;

/// Where a packet's bytes go.
pub(crate) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    /// Notes that the packet cannot be written; only [`Count`] listens.
    fn refuse(&mut self, error: EncodeError);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    fn var_int(&mut self, value: u32) {
        let mut buf = [0; 4];
        let len = put_var_int(&mut buf, value);
        self.bytes(&buf[..len]);
    }

    /// Two bytes of length and the bytes.
    fn binary(&mut self, field: &'static str, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(len) => {
                self.u16(len);
                self.bytes(bytes);
            }
            Err(_) => self.refuse(EncodeError::FieldTooLong(field)),
        }
    }

    fn text(&mut self, field: &'static str, text: &str) {
        if text.as_bytes().contains(&0) {
            self.refuse(EncodeError::Invalid(field));
        }
        self.binary(field, text.as_bytes());
    }

    fn flag_property(&mut self, id: PropertyId, value: Option<bool>) {
        if let Some(value) = value {
            self.bytes(&[id as u8, u8::from(value)]);
        }
    }

    fn u16_property(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u16(value);
        }
    }

    fn u32_property(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u32(value);
        }
    }

    fn text_property(&mut self, id: PropertyId, value: Option<&str>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.text(id.name(), value);
        }
    }

    fn binary_property(&mut self, id: PropertyId, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.binary(id.name(), value);
        }
    }

    fn subscription_id(&mut self, id: u32) {
        if id == 0 || id > SUBSCRIPTION_ID_MAX {
            self.refuse(EncodeError::Invalid(PropertyId::SubscriptionId.name()));
            return;
        }
        self.u8(PropertyId::SubscriptionId as u8);
        self.var_int(id);
    }
}

impl Sink for BytesMut {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn refuse(&mut self, error: EncodeError) {
        // `encode` writes only what `Count` has let pass, and both run the same code.
        unreachable!("a packet that was measured without a refusal is refused while written: {error}");
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn refuse(&mut self, error: EncodeError) {
        // `encode` writes only what `Count` has let pass, and both run the same code.
        unreachable!("a packet that was measured without a refusal is refused while written: {error}");
    }
}

/// Adds up what would be written.
#[derive(Default)]
pub(crate) struct Count {
    bytes: usize,
    refusal: Option<EncodeError>,
}

impl Sink for Count {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn refuse(&mut self, error: EncodeError) {
        self.refusal.get_or_insert(error);
    }
}

/// Everything of a packet after its fixed header.
pub(crate) trait Body {
    fn write<S: Sink>(&self, version: Version, out: &mut S);
}

/// What stands in a property section.
pub(crate) trait Properties {
    fn write<S: Sink>(&self, out: &mut S);

    /// The length of the section without its length field.
    fn measure(&self) -> usize {
        let mut count = Count::default();
        self.write(&mut count);
        count.bytes
    }
}

/// A property section with its length before it.
pub(crate) fn write_section<S: Sink>(properties: &impl Properties, out: &mut S) {
    match u32::try_from(properties.measure()) {
        Ok(len) if len <= PACKET_BYTES_MAX => {
            out.var_int(len);
            properties.write(out);
        }
        _ => out.refuse(EncodeError::PacketTooLarge),
    }
}

/// Writes a whole packet, or nothing.
pub(crate) fn encode(
    first: u8,
    body: &impl Body,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut count = Count::default();
    body.write(version, &mut count);
    if let Some(refusal) = count.refusal {
        return Err(refusal);
    }
    let remaining = match u32::try_from(count.bytes) {
        Ok(remaining) if remaining <= PACKET_BYTES_MAX => remaining,
        _ => return Err(EncodeError::PacketTooLarge),
    };
    out.reserve(5 + count.bytes);
    out.u8(first);
    out.var_int(remaining);
    body.write(version, out);
    Ok(())
}

/// The length of the whole packet that [`encode`] would write.
pub(crate) fn encoded_bytes(body: &impl Body, version: Version) -> usize {
    let mut count = Count::default();
    body.write(version, &mut count);
    packet_bytes(count.bytes)
}

/// The length of a packet with `remaining` bytes after its fixed header.
pub(crate) const fn packet_bytes(remaining: usize) -> usize {
    1 + var_int_bytes(remaining) + remaining
}

/// The bytes that a variable byte integer takes: 1 to 4, and a fifth for what cannot be written.
pub(crate) const fn var_int_bytes(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        0x20_0000..=0x0FFF_FFFF => 4,
        _ => 5,
    }
}

/// Puts a variable byte integer at the start of `buf`; returns its length.
///
/// # Panics
/// If `value` is over 268,435,455 or `buf` too short: a fault of the caller.
#[inline]
pub(crate) fn put_var_int(buf: &mut [u8], mut value: u32) -> usize {
    assert!(value <= PACKET_BYTES_MAX, "{value} does not fit in a variable byte integer");
    let mut len = 0;
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        buf[len] = if value > 0 { low | 0x80 } else { low };
        len += 1;
        if value == 0 {
            return len;
        }
    }
}
