//! A histogram as figures, and whole.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};
use serde::Serialize;

use crate::record::Latencies;

/// Nanoseconds. All figures are 0 where nothing was recorded.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HistogramReport {
    pub(crate) count: u64,
    pub(crate) min_ns: u64,
    pub(crate) mean_ns: f64,
    pub(crate) stdev_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p99_9_ns: u64,
    pub(crate) p99_99_ns: u64,
    pub(crate) max_ns: u64,
    /// HdrHistogram V2, compressed, in base64: the tools of that project read it. Empty where nothing was recorded.
    pub(crate) hdr: String,
}

impl HistogramReport {
    pub(crate) fn new(histogram: &Latencies) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            stdev_ns: histogram.stdev(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.9999),
            max_ns: histogram.max(),
            hdr: encode(histogram),
        }
    }
}

fn encode(histogram: &Latencies) -> String {
    let mut bytes = Vec::new();
    let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
    assert!(written.is_ok(), "memory takes all bytes");
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;

    use super::*;
    use crate::record::latencies;

    #[test]
    fn the_encoded_histogram_holds_the_same() {
        let mut histogram = latencies();
        (1..=10_000).for_each(|value| histogram.saturating_record(value * 1000));
        let report = HistogramReport::new(&histogram);
        assert_eq!(report.count, 10_000);
        assert!(report.p99_ns.abs_diff(9_900_000) < 10_000, "{report:?}");
        let bytes = STANDARD.decode(&report.hdr).unwrap();
        let read: Latencies = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, histogram);
    }

    #[test]
    fn nothing_is_zero() {
        let report = HistogramReport::new(&latencies());
        assert_eq!((report.count, report.max_ns, report.hdr.as_str()), (0, 0, ""));
    }
}
