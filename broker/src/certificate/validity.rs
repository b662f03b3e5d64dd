//! Reads the end of a certificate's validity out of its DER (RFC 5280 §4.1).
//!
//! ```text
//!   Certificate ::= SEQUENCE { tbsCertificate ::= SEQUENCE {
//!       [0] version (may be missing), INTEGER serial, SEQUENCE algorithm, SEQUENCE issuer,
//!       SEQUENCE validity { notBefore, notAfter }, …
//! ```
//! Everything else about a certificate is rustls' business.

use std::time::{Duration, SystemTime};

use time::{Date, Month, PrimitiveDateTime, Time};

/// `notAfter` of `certificate`; `None` if it is not shaped like a certificate, or lies before 1970.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let mut outer = Der(certificate);
    let mut certificate = outer.enter(SEQUENCE)?;
    let mut tbs = certificate.enter(SEQUENCE)?;
    if tbs.0.first() == Some(&VERSION) {
        tbs.enter(VERSION)?;
    }
    tbs.enter(INTEGER)?;
    tbs.enter(SEQUENCE)?;
    tbs.enter(SEQUENCE)?;
    let mut validity = tbs.enter(SEQUENCE)?;
    validity.time()?;
    validity.time()
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// What is left to read on one level.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element if it has this tag, and gives what it holds.
    fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        let (&found, rest) = self.0.split_first()?;
        if found != tag {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            // The long form; four bytes of length are more than any certificate has.
            let count = usize::from(first & 0x7f);
            let digits = rest.get(..count).filter(|digits| (1..=4).contains(&digits.len()))?;
            length = digits.iter().fold(0, |sum, digit| (sum << 8) | usize::from(*digit));
            rest = &rest[count..];
        }
        let held = rest.get(..length)?;
        self.0 = &rest[length..];
        Some(Der(held))
    }

    /// `YYMMDDHHMMSSZ` with the years 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
    fn time(&mut self) -> Option<SystemTime> {
        let tag = *self.0.first()?;
        let text = std::str::from_utf8(self.enter(tag)?.0).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = number(text, 2)?;
                (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
            }
            GENERALIZED_TIME => number(text, 4)?,
            _ => return None,
        };
        let (month, rest) = number(rest, 2)?;
        let (day, rest) = number(rest, 2)?;
        let (hour, rest) = number(rest, 2)?;
        let (minute, rest) = number(rest, 2)?;
        let (second, _) = number(rest, 2)?;
        let byte = |number: u16| u8::try_from(number).ok();
        let month = Month::try_from(byte(month)?).ok()?;
        let date = Date::from_calendar_date(i32::from(year), month, byte(day)?).ok()?;
        let clock = Time::from_hms(byte(hour)?, byte(minute)?, byte(second)?).ok()?;
        let seconds = PrimitiveDateTime::new(date, clock).assume_utc().unix_timestamp();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
    }
}

fn number(text: &str, digits: usize) -> Option<(u16, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((is_number.then(|| number.parse().ok())??, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(der: &[u8]) -> Option<u64> {
        Der(der).time().map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(unix(b"\x17\x0d700101000001Z"), Some(1));
        assert_eq!(unix(b"\x17\x0d491231235959Z"), Some(2_524_607_999));
        assert_eq!(unix(b"\x18\x0f20500101000000Z"), Some(2_524_608_000));
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for der in [
            &b"\x17\x0d701301000001Z"[..],
            b"\x17\x0d7001010000+1Z",
            b"\x17\x0d500101000000Z",
            b"\x17\x0e700101000001Z",
            b"\x05\x00",
            b"",
        ] {
            assert_eq!(unix(der), None, "{der:?}");
        }
    }

    #[test]
    fn no_prefix_of_a_certificate_panics_or_passes_as_one() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        assert!(not_after(made.der()).is_some());
        for end in 0..made.der().len() {
            assert_eq!(not_after(&made.der()[..end]), None);
        }
    }
}
