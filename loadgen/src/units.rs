//! Numbers as people type them: `20k`, `10s`, `1KiB`, `1.5/s`.

use std::time::Duration;

use quelea_mqtt::{QoS, Version};
use quelea_udp_io::Backend;

use crate::schedule::Rate;

/// Messages per second: `5000`, `20k`, `0.5`, `1.2M` or `max`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let milli_per_s = scaled(text, &[("M", 1e6), ("k", 1e3), ("", 1.0)])? * 1e3;
    if !(1.0..=RATE_MAX * 1e3).contains(&milli_per_s) {
        return Err("expected max, or between 0.001 and 100M per second".into());
    }
    Ok(Rate::Fixed { milli_per_s: milli_per_s.round() as u64 })
}

/// A number of things: `100`, `10k`; at least 1, at most a million.
pub(crate) fn count(text: &str) -> Result<u32, String> {
    let count = scaled(text, &[("k", 1e3), ("M", 1e6), ("", 1.0)])?;
    if !(1.0..=1e6).contains(&count) || count.fract() != 0.0 {
        return Err("expected a whole number between 1 and 1M".into());
    }
    Ok(count as u32)
}

/// Connections per second, at least 0.1.
pub(crate) fn connect_rate(text: &str) -> Result<f64, String> {
    let per_s = scaled(text, &[("k", 1e3), ("", 1.0)])?;
    if !(0.1..=1e6).contains(&per_s) {
        return Err("expected between 0.1 and 1000k per second".into());
    }
    Ok(per_s)
}

/// A duration: `10s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let seconds = scaled(text, &units)?;
    if !(0.0..=DAY_S).contains(&seconds) {
        return Err("expected at most 24h".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A number of bytes: `64`, `1KiB`, `1MiB`, `1k` (1,000).
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("k", 1e3), ("M", 1e6), ("B", 1.0), ("", 1.0)];
    let bytes = scaled(text, &units)?;
    if !(0.0..=4e9).contains(&bytes) {
        return Err("expected at most 4 GB".into());
    }
    Ok(bytes as usize)
}

/// A QoS: 0, 1 or 2.
pub(crate) fn qos(text: &str) -> Result<QoS, String> {
    let level: u8 = text.trim().parse().map_err(|_| "expected 0, 1 or 2".to_owned())?;
    QoS::from_u8(level).ok_or_else(|| "expected 0, 1 or 2".to_owned())
}

/// A version of MQTT.
pub(crate) fn version(text: &str) -> Result<Version, String> {
    match text {
        "5" | "5.0" => Ok(Version::V5),
        "3.1.1" | "311" => Ok(Version::V311),
        _ => Err("expected 5 or 3.1.1".into()),
    }
}

/// A number and the first unit of `units` that it ends with.
fn scaled(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let is_unit = |unit: &str| text.ends_with(unit) && text.len() > unit.len();
    let names = || units.iter().map(|(unit, _)| *unit).filter(|unit| !unit.is_empty());
    let wrong =
        || format!("expected a number, with {} or nothing behind it", names().collect::<Vec<_>>().join(", "));
    let (unit, scale) = units.iter().find(|(unit, _)| is_unit(unit)).ok_or_else(wrong)?;
    let number: f64 = text[..text.len() - unit.len()].trim().parse().map_err(|_| wrong())?;
    if number.is_finite() { Ok(number * scale) } else { Err(wrong()) }
}

const RATE_MAX: f64 = 1e8;
const DAY_S: f64 = 86_400.0;

/// The back end of the ring.
pub(crate) fn backend(text: &str) -> Result<Backend, String> {
    match text {
        "auto" => Ok(Backend::Auto),
        "epoll" => Ok(Backend::Epoll),
        "io_uring" | "uring" => Ok(Backend::IoUring),
        _ => Err("expected epoll, io_uring or auto".into()),
    }
}

/// Names of application protocols (RFC 7301), in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alpn(pub(crate) Vec<Vec<u8>>);

/// A list of them: `mqtt`, `MQTT-next,mqtt`.
pub(crate) fn alpn(text: &str) -> Result<Alpn, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().as_bytes().to_vec()).collect();
    // RFC 7301 §3.1: a name has 1 to 255 bytes.
    if names.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err("expected names of 1 to 255 bytes with commas between".into());
    }
    Ok(Alpn(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let fixed = |milli_per_s| Ok(Rate::Fixed { milli_per_s });
        assert_eq!(rate("5000"), fixed(5_000_000));
        assert_eq!(rate("20k"), fixed(20_000_000));
        assert_eq!(rate("0.5"), fixed(500));
        assert_eq!(rate("1.2M"), fixed(1_200_000_000));
        assert_eq!(rate("max"), Ok(Rate::Max));
        for wrong in ["", "k", "-1", "0", "NaN", "inf", "1x", "101M"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_are_read() {
        assert_eq!(count("10k"), Ok(10_000));
        for wrong in ["0", "1.5", "2M", ""] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["", "s", "-1s", "25h", "1d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("64"), Ok(64));
        assert_eq!(bytes("1KiB"), Ok(1024));
        assert_eq!(bytes("2k"), Ok(2000));
        assert!(bytes("1GiB").is_err());
    }

    #[test]
    fn levels_and_versions_are_read() {
        assert_eq!(qos("2"), Ok(QoS::ExactlyOnce));
        assert!(qos("3").is_err());
        assert_eq!(version("3.1.1"), Ok(Version::V311));
        assert!(version("4").is_err());
    }

    #[test]
    fn back_ends_and_protocols_have_names() {
        for back_end in [Backend::Auto, Backend::Epoll, Backend::IoUring] {
            assert_eq!(backend(&back_end.to_string()), Ok(back_end));
        }
        assert!(backend("kqueue").is_err());
        assert_eq!(alpn("MQTT-next, mqtt"), Ok(Alpn(vec![b"MQTT-next".to_vec(), b"mqtt".to_vec()])));
        assert!(alpn("mqtt,").is_err());
    }
}
