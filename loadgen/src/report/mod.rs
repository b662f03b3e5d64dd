//! The report: findings turned into figures, once, for the screen ([`table`]) and for machines ([`json`], whose schema is
//! documented in `docs/load-generator.md`). What it consists of is in [`document`], how it is made of the findings here.

mod counts;
mod document;
mod histogram;
pub(crate) mod json;
pub(crate) mod table;

use crate::bottleneck;
use crate::clock::{Nanos, SECOND};
use crate::plan::{Plan, Shape};
use crate::run::{BrokerFindings, Findings};
use crate::schedule::{Rate, Spacing};
use crate::series::SeriesSecond;

pub(crate) use counts::QosCounts;
pub(crate) use document::Report;
pub(crate) use histogram::HistogramReport;

use document::{
    BrokerReport, Configuration, Connections, ErrorReport, Generator, KernelReport, LatencyReport,
    OutcomeReport, QosHistogram, SCHEMA_VERSION, SecondReport, ThreadReport, WindowReport,
};

impl Report {
    pub(crate) fn new(findings: &Findings) -> Self {
        let plan = &findings.plan;
        let counts = counts::by_qos(findings);
        let causes = bottleneck::causes(findings);
        let reasons = reasons(findings, &counts);
        let exit_code = u8::from(!reasons.is_empty());
        let began = findings.began.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            version: SCHEMA_VERSION,
            tool: env!("CARGO_PKG_NAME"),
            tool_version: env!("CARGO_PKG_VERSION"),
            command: plan.command(),
            began_unix_ms: began.as_millis() as u64,
            outcome: OutcomeReport {
                ok: reasons.is_empty(),
                exit_code,
                interrupted: findings.interrupted,
                reasons,
            },
            bottleneck: !causes.is_empty(),
            bottleneck_causes: causes,
            configuration: configuration(plan),
            connections: connections(findings),
            window: window(findings),
            latency: latency(findings, &counts),
            generator: generator(findings),
            brokers: findings.brokers.iter().map(|broker| broker_report(broker, findings)).collect(),
            kernel: kernel_report(findings),
            series: findings.series.seconds().iter().map(second_report).collect(),
            foreign: findings.links.foreign,
            counts,
        }
    }
}

/// Why the run is not good.
fn reasons(findings: &Findings, counts: &[QosCounts]) -> Vec<String> {
    let mut reasons: Vec<String> = findings.failure.iter().cloned().collect();
    let links = &findings.links;
    let mut add = |number: u64, what: &str| {
        if number > 0 {
            reasons.push(format!("{} {what}", crate::text::count(number)));
        }
    };
    if findings.failure.is_none() {
        add(links.failed, "clients could not connect");
    }
    add(links.ahead, "messages came before their time: `pub` and `sub` must run on one machine");
    if findings.plan.reach.reconnect.is_none() {
        add(links.lost, "connections were lost");
    }
    for level in counts {
        if level.qos > 0 {
            add(level.lost, &format!("messages of QoS {} were lost", level.qos));
            add(level.refused, &format!("publications of QoS {} were refused", level.qos));
            add(level.unanswered, &format!("publications of QoS {} were never answered", level.qos));
        }
        if level.qos == 2 {
            add(level.duplicated, "messages of QoS 2 came more than once");
        }
        add(
            level.unsent,
            &format!("messages of QoS {} were held back until the end and never sent", level.qos),
        );
    }
    reasons
}

fn configuration(plan: &Plan) -> Configuration {
    let rate_per_s = match plan.load.rate {
        Rate::Fixed { milli_per_s } => Some(milli_per_s as f64 / 1e3),
        Rate::Max => None,
    };
    let arrivals = match (plan.load.rate, plan.load.spacing) {
        (Rate::Max, _) => "max",
        (Rate::Fixed { .. }, Spacing::Even) => "even",
        (Rate::Fixed { .. }, Spacing::Poisson) => "poisson",
    };
    Configuration {
        url: plan.target().to_string(),
        mqtt: match plan.version() {
            quelea_mqtt::Version::V5 => "5.0",
            _ => "3.1.1",
        },
        threads: plan.reach.threads,
        clients: plan.clients(),
        publishers: plan.publishers,
        subscribers: plan.subscribers,
        groups: if let Shape::Share { groups, .. } = plan.shape { groups } else { 0 },
        connect_rate_per_s: plan.reach.connect_rate,
        rate_per_s,
        arrivals,
        qos: plan.load.qos.iter().map(|qos| *qos as u8).collect(),
        payload_bytes: plan.load.payload_bytes,
        in_flight: plan.load.in_flight.get(),
        window: plan.load.window,
        receive_max: plan.receive_max.get(),
        topic: plan.topic.clone(),
        topics: plan.topics,
        warm_up_s: seconds(plan.warm_up),
        duration_s: seconds(plan.duration),
        drain_s: seconds(plan.drain),
        lag_max_s: seconds(plan.lag_max),
        sources: plan.sources.len(),
        reconnect: plan.reach.reconnect.is_some(),
        run: plan.run,
        seed: plan.reach.seed,
    }
}

fn connections(findings: &Findings) -> Connections {
    let links = &findings.links;
    Connections {
        asked: findings.plan.clients().into(),
        ready: links.ready,
        failed: links.failed,
        lost: links.lost,
        reconnected: links.reconnected,
        ramp_s: seconds(findings.ramp),
        connect: HistogramReport::new(&findings.record.connect),
        errors: links
            .errors
            .iter()
            .map(|(reason, count)| ErrorReport { reason: reason.to_owned(), count })
            .collect(),
    }
}

fn window(findings: &Findings) -> WindowReport {
    let published = findings.publishers.iter().map(|(.., counts)| counts.published_in_window).sum();
    let left = findings.publishers.iter().map(|(.., counts)| counts.left_in_window).sum();
    let arrived = findings.links.arrived_in_window;
    let length = seconds(findings.measured);
    let per_s = |number: u64| if length > 0.0 { number as f64 / length } else { 0.0 };
    WindowReport {
        seconds: length,
        published,
        arrived,
        left,
        published_per_s: per_s(published),
        arrived_per_s: per_s(arrived),
        left_per_s: per_s(left),
        drained_s: seconds(findings.drained),
    }
}

fn latency(findings: &Findings, counts: &[QosCounts]) -> LatencyReport {
    // Of this window and QoS, once for each of `copies`.
    let meant = |qos: u8, copies: u64| {
        let of_qos = findings.publishers.iter().filter(|(_, level, _)| *level as u8 == qos);
        of_qos.map(|(.., counts)| counts.published_in_window + counts.unsent_in_window).sum::<u64>() * copies
    };
    let of = |histograms: &crate::record::ByQos, copies: u64| {
        let levels = counts.iter().filter_map(|level| {
            let histogram = histograms.get(quelea_mqtt::QoS::from_u8(level.qos)?)?;
            let missing = meant(level.qos, copies).saturating_sub(histogram.len());
            let missing = (findings.plan.shape != Shape::Sub).then_some(missing);
            Some(QosHistogram { qos: level.qos, missing, histogram: HistogramReport::new(histogram) })
        });
        levels.collect()
    };
    LatencyReport {
        open_loop: findings.plan.is_open_loop(),
        delivery: of(&findings.record.delivery, findings.plan.copies().into()),
        acknowledgement: of(&findings.record.acknowledgement, 1),
    }
}

fn generator(findings: &Findings) -> Generator {
    let share = |part: Nanos, whole: Nanos| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
    Generator {
        threads: findings
            .efforts
            .iter()
            .zip(&findings.backends)
            .map(|(effort, io)| ThreadReport {
                io: io.to_string(),
                cpu: share(effort.cpu, effort.wall),
                waited: effort.waited.map(|waited| share(waited, effort.wall)),
                reads: effort.reads,
                full_reads: effort.full_reads,
                datagrams: effort.datagrams,
                dropped: effort.dropped,
            })
            .collect(),
        lag: HistogramReport::new(&findings.record.lag),
        turn: HistogramReport::new(&findings.record.turn),
        bytes_in: findings.links.bytes_in,
        bytes_out: findings.links.bytes_out,
        windows_forgiven: findings.links.windows_forgiven,
        excess: findings.links.excess,
    }
}

fn broker_report(broker: &BrokerFindings, findings: &Findings) -> BrokerReport {
    let before = &broker.before;
    let from = broker.from.as_ref().unwrap_or(before);
    let to = broker.to.as_ref().unwrap_or(from);
    let (user, system) = (to.user_s - from.user_s, to.system_s - from.system_s);
    let (cpu, length) = (to.cpu_since(from), seconds(findings.measured));
    let arrived = if broker.to.is_some() { broker.arrived } else { 0 };
    let (ready, grown) = (findings.links.ready, to.resident.saturating_sub(before.resident));
    BrokerReport {
        pid: broker.watched.pid,
        name: broker.watched.name.clone(),
        resident_before: before.resident,
        resident_from: from.resident,
        resident_to: to.resident,
        resident_peak: to.resident_peak,
        cpu_user_s: user,
        cpu_system_s: system,
        cpu: if length > 0.0 { cpu / length } else { 0.0 },
        voluntary_switches: to.voluntary_switches.saturating_sub(from.voluntary_switches),
        involuntary_switches: to.involuntary_switches.saturating_sub(from.involuntary_switches),
        arrived,
        cpu_us_per_delivery: (arrived > 0).then(|| cpu * 1e6 / arrived as f64),
        deliveries_per_cpu_s: (cpu > 0.0 && arrived > 0).then(|| arrived as f64 / cpu),
        resident_per_connection: (ready > 0).then(|| grown as f64 / ready as f64),
        cpu_ramp_s: from.cpu_since(before),
        cpu_us_per_connection: (ready > 0).then(|| from.cpu_since(before) * 1e6 / ready as f64),
    }
}

fn kernel_report(findings: &Findings) -> KernelReport {
    let (before, to) = findings.kernel;
    let ready = findings.links.ready;
    let each = |from: u64, to: u64| (ready > 0).then(|| (to as f64 - from as f64) / ready as f64);
    KernelReport {
        before,
        to,
        slab_per_connection: each(before.slab, to.slab),
        buffers_per_connection: each(before.buffers(), to.buffers()),
    }
}

fn second_report(second: &SeriesSecond) -> SecondReport {
    SecondReport {
        second: second.number,
        published: second.published,
        confirmed: second.confirmed,
        received: second.received,
        p50_ns: second.p50,
        p99_ns: second.p99,
        max_ns: second.max,
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}
