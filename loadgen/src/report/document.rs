//! The document, field by field, as `docs/load-generator.md` describes it; [`SCHEMA_VERSION`] changes with what its fields mean.

use serde::Serialize;

use super::{HistogramReport, QosCounts};
use crate::bottleneck::Cause;
use crate::kernel::KernelMemory;

/// Of the JSON document.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Everything that is reported. The field names are those of the JSON document.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) tool: &'static str,
    pub(crate) tool_version: &'static str,
    pub(crate) command: &'static str,
    pub(crate) began_unix_ms: u64,
    pub(crate) outcome: OutcomeReport,
    pub(crate) bottleneck: bool,
    pub(crate) bottleneck_causes: Vec<Cause>,
    pub(crate) configuration: Configuration,
    pub(crate) connections: Connections,
    pub(crate) counts: Vec<QosCounts>,
    pub(crate) foreign: u64,
    pub(crate) window: WindowReport,
    pub(crate) latency: LatencyReport,
    pub(crate) generator: Generator,
    pub(crate) brokers: Vec<BrokerReport>,
    pub(crate) kernel: KernelReport,
    pub(crate) series: Vec<SecondReport>,
}

/// Whether the run is good.
#[derive(Debug, Serialize)]
pub(crate) struct OutcomeReport {
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    /// Ended early by a signal.
    pub(crate) interrupted: bool,
    /// Why it is not good; empty if it is.
    pub(crate) reasons: Vec<String>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Configuration {
    pub(crate) url: String,
    pub(crate) mqtt: &'static str,
    pub(crate) threads: u16,
    pub(crate) clients: u32,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    /// Groups of `share`, else 0.
    pub(crate) groups: u32,
    pub(crate) connect_rate_per_s: f64,
    /// Messages per second; null for `max`.
    pub(crate) rate_per_s: Option<f64>,
    /// `even`, `poisson` or `max`.
    pub(crate) arrivals: &'static str,
    pub(crate) qos: Vec<u8>,
    pub(crate) payload_bytes: usize,
    pub(crate) in_flight: u16,
    /// Of `--rate max` at QoS 0.
    pub(crate) window: u32,
    pub(crate) receive_max: u16,
    pub(crate) topic: String,
    pub(crate) topics: u32,
    pub(crate) warm_up_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) drain_s: f64,
    pub(crate) lag_max_s: f64,
    pub(crate) sources: usize,
    pub(crate) reconnect: bool,
    pub(crate) run: u32,
    pub(crate) seed: u64,
}

/// What became of the connections.
#[derive(Debug, Serialize)]
pub(crate) struct Connections {
    pub(crate) asked: u64,
    pub(crate) ready: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) reconnected: u64,
    pub(crate) ramp_s: f64,
    /// From the intended time of each connection to its CONNACK.
    pub(crate) connect: HistogramReport,
    pub(crate) errors: Vec<ErrorReport>,
}

/// One kind of error.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    pub(crate) reason: String,
    pub(crate) count: u64,
}

/// The measured window.
#[derive(Debug, Serialize)]
pub(crate) struct WindowReport {
    pub(crate) seconds: f64,
    /// Messages published whose intended time lies in it.
    pub(crate) published: u64,
    /// Messages that arrived in it, duplicates included.
    pub(crate) arrived: u64,
    /// Messages published in it, whenever they were meant to be.
    pub(crate) left: u64,
    pub(crate) published_per_s: f64,
    pub(crate) arrived_per_s: f64,
    pub(crate) left_per_s: f64,
    /// How long late messages were awaited after it.
    pub(crate) drained_s: f64,
}

/// Latencies of messages whose intended time lies in the window.
#[derive(Debug, Serialize)]
pub(crate) struct LatencyReport {
    /// False with `--rate max`: then latencies are those of a closed loop, and say nothing about a given rate.
    pub(crate) open_loop: bool,
    pub(crate) delivery: Vec<QosHistogram>,
    pub(crate) acknowledgement: Vec<QosHistogram>,
}

/// One histogram of one QoS.
#[derive(Debug, Serialize)]
pub(crate) struct QosHistogram {
    pub(crate) qos: u8,
    /// Messages of the window, once for each receiver, that have no place in it: they never arrived, or were never acknowledged. Null
    /// where the publishers are of another process.
    pub(crate) missing: Option<u64>,
    pub(crate) histogram: HistogramReport,
}

/// What the generator itself did.
#[derive(Debug, Serialize)]
pub(crate) struct Generator {
    pub(crate) threads: Vec<ThreadReport>,
    /// From intended time to write, where the broker did not hold the publisher back.
    pub(crate) lag: HistogramReport,
    /// Length of turns: how long received bytes may have waited unread.
    pub(crate) turn: HistogramReport,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Windows of `--rate max` that stalled for a second and were opened again.
    pub(crate) windows_forgiven: u64,
    /// Messages that came although a subscriber's Receive Maximum was reached.
    pub(crate) excess: u64,
}

/// One thread in the window.
#[derive(Debug, Serialize)]
pub(crate) struct ThreadReport {
    /// `epoll` or `io_uring`.
    pub(crate) io: String,
    /// Of a core, 0 to 1.
    pub(crate) cpu: f64,
    /// Of the time, ready to run while another had the core; null where the kernel does not say.
    pub(crate) waited: Option<f64>,
    pub(crate) reads: u64,
    pub(crate) full_reads: u64,
    /// QUIC's, in and out.
    pub(crate) datagrams: u64,
    /// Of these, what our own sockets and buffers had no room for.
    pub(crate) dropped: u64,
}

/// One watched process.
#[derive(Debug, Serialize)]
pub(crate) struct BrokerReport {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) resident_before: u64,
    pub(crate) resident_from: u64,
    pub(crate) resident_to: u64,
    pub(crate) resident_peak: u64,
    /// In the window.
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
    /// Of a core, 0 to the number of cores.
    pub(crate) cpu: f64,
    pub(crate) voluntary_switches: u64,
    pub(crate) involuntary_switches: u64,
    /// Messages that arrived between the readings.
    pub(crate) arrived: u64,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    pub(crate) deliveries_per_cpu_s: Option<f64>,
    /// From before the first connection to the end of the window, per connection.
    pub(crate) resident_per_connection: Option<f64>,
    /// User and system time from before the first connection to the beginning of the window.
    pub(crate) cpu_ramp_s: f64,
    /// The same, by connection.
    pub(crate) cpu_us_per_connection: Option<f64>,
}

/// The kernel's memory for sockets, of the whole machine: both ends, if the broker is on it, and whatever else it did meanwhile.
#[derive(Debug, Serialize)]
pub(crate) struct KernelReport {
    /// Before the first connection.
    pub(crate) before: KernelMemory,
    /// At the end of the window.
    pub(crate) to: KernelMemory,
    /// What slabs (sockets and their files among them) have grown by, per connection; null without connections.
    pub(crate) slab_per_connection: Option<f64>,
    /// The same of the sockets' buffers.
    pub(crate) buffers_per_connection: Option<f64>,
}

/// One second.
#[derive(Debug, Serialize)]
pub(crate) struct SecondReport {
    pub(crate) second: u64,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) received: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) max_ns: u64,
}
