//! Writes the board and the node as OpenMetrics text.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Descriptor, Kind, Shown};
use crate::certificate::CurrentCertificate;

/// What concerns the whole process.
#[derive(Debug)]
pub struct Node {
    /// When it started.
    pub started: SystemTime,
    /// Ceiling of the memory that peers can cause, in bytes.
    pub memory_ceiling_bytes: u64,
    /// The certificates in use.
    pub certificates: Vec<Arc<CurrentCertificate>>,
}

/// Media type of what [`encode`] writes.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as text.
pub(super) fn encode(shown: &Arc<Shown>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("quelea");
    registry.register_collector(Box::new(Columns(Arc::clone(shown))));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Columns(Arc<Shown>);

impl Collector for Columns {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.node(&mut encoder)?;
        self.shards(&mut encoder)
    }
}

impl Columns {
    fn node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let node = &self.0.node;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor("build", "The program's version", None, MetricType::Info)?
            .encode_info(&version)?;
        let started = unix_seconds(node.started);
        gauge(encoder, "start_time_seconds", "When the process started, in Unix time", started)?;
        let ceiling = node.memory_ceiling_bytes;
        gauge(encoder, "memory_ceiling_bytes", "Ceiling of the memory that clients can cause", ceiling)?;
        if let Some(bytes) = resident_bytes() {
            gauge(encoder, "memory_resident_bytes", "Memory of the process that is in RAM", bytes)?;
        }
        if let Some(first_end) = node.certificates.iter().map(|current| current.get().not_after()).min() {
            let not_after = unix_seconds(first_end);
            gauge(
                encoder,
                "certificate_not_after_seconds",
                "End of the certificate that ends first, in Unix time",
                not_after,
            )?;
        }
        Ok(())
    }

    fn shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut columns = self.0.board.columns().peekable();
        while let Some((column, first)) = columns.next() {
            let mut metric =
                encoder.encode_descriptor(first.name, first.help, None, metric_type(first.kind))?;
            self.column(&mut metric, column, first)?;
            while let Some((column, next)) = columns.next_if(|(_, next)| next.name == first.name) {
                self.column(&mut metric, column, next)?;
            }
        }
        Ok(())
    }

    fn column(&self, metric: &mut MetricEncoder<'_>, column: usize, descriptor: &Descriptor) -> fmt::Result {
        for (shard, value) in self.0.board.values(column).enumerate() {
            let shard = shard.to_string();
            let mut labels = vec![("shard", shard.as_str())];
            labels.extend(descriptor.label);
            let mut metric = metric.encode_family(&labels)?;
            match descriptor.kind {
                Kind::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                Kind::Gauge => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    prometheus_client::metrics::gauge::ConstGauge::new(value).encode(metric)
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// The second number of `/proc/self/statm`: pages in RAM.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
