//! The first lines of a story: the stage, the weather, and who is who.

use std::fmt::Write;

use quelea_mqtt::Version;
use quelea_shard::{OnFull, OnSlow};

use crate::actor::{Character, Role};
use crate::world::World;

impl World {
    /// Tells what was drawn.
    pub(crate) fn introduce(&mut self) {
        let (stage, broker, weather) = (self.stage(), self.broker(), self.weather());
        let mut lines = vec![stage, broker, weather];
        lines.extend(self.quic_weather());
        lines.extend(self.plan.limits.as_ref().map(|limits| format!("small: {limits}")));
        lines
            .extend(self.actors.iter().enumerate().map(|(index, actor)| introduced(index, &actor.character)));
        for line in lines {
            self.tell(|| line);
        }
    }

    fn stage(&self) -> String {
        let plan = &self.plan;
        let mesh = plan.mesh;
        format!(
            "{} shards, {} clients; a storm of {:?}; rings of {} replies, {} control messages, {} publications \
             and {} deliveries",
            plan.shards, plan.clients, plan.storm, mesh.replies, mesh.control, mesh.forward, mesh.deliver
        )
    }

    fn broker(&self) -> String {
        let settings = &self.plan.settings;
        let on_full = match settings.on_full {
            OnFull::DropOldest => "drops its oldest message",
            OnFull::DropNew => "drops the new message",
            OnFull::EndSession => "ends with its session",
        };
        let on_slow = match settings.on_slow {
            OnSlow::Disconnect => "is disconnected",
            OnSlow::DropOldest => "loses its oldest message",
            OnSlow::DropNew => "loses the new message",
        };
        format!(
            "the broker: queues of {} messages; one that is full {on_full} while its client is away, who {on_slow} \
             when it was full for {:?}; Receive Maximum {}, {} in flight to a client; windows of {} deliveries and {} \
             publications between shards",
            settings.queue_messages_max,
            settings.full_deadline,
            settings.receive_max,
            settings.inflight_max,
            settings.deliver_window,
            settings.forward_window
        )
    }

    fn weather(&self) -> String {
        let wire = &self.plan.wire;
        format!(
            "byte streams: {:?} µs one way, {} % of writes in pieces; {} % of turns end with a pause",
            wire.delay_us, wire.cut_percent, wire.preempt_percent
        )
    }

    fn quic_weather(&self) -> Option<String> {
        let weather = &self.plan.quic.as_ref()?.weather;
        let mut line = format!(
            "datagrams: {:?} µs one way, {} % lost, {} % twice, {} % changed, {} % to a wrong shard; paths of {} bytes",
            weather.delay_us,
            weather.loss_percent,
            weather.duplicate_percent,
            weather.corrupt_percent,
            weather.stray_percent,
            weather.path_bytes
        );
        let also = [
            (weather.rebind_us.is_some(), "addresses change"),
            (weather.blackhole_us.is_some(), "blackholes"),
            (weather.paths.is_some(), "other paths"),
            (weather.stranger_us.is_some(), "strangers"),
            (weather.bytes_per_ms.is_some(), "slow accesses"),
        ];
        for (_, what) in also.into_iter().filter(|(there, _)| *there) {
            let _ = write!(line, "; {what}");
        }
        Some(line)
    }
}

fn introduced(index: usize, character: &Character) -> String {
    match character.role {
        Role::Watcher => return format!("client {index} sees all Wills"),
        Role::Probe => return format!("client {index} reads at the end what is retained"),
        Role::Player => {}
    }
    let version = if character.version == Version::V5 { "5.0" } else { "3.1.1" };
    let road = if character.quic { ", over QUIC" } else { "" };
    let session = match (character.persistent, character.version) {
        (true, Version::V5) => format!(", keeps its session for {} s", character.session_expiry_s),
        (true, _) => ", keeps its session".to_owned(),
        (false, _) => String::new(),
    };
    let will = match (character.wants_will, character.version, character.will_delay_s) {
        (false, ..) => String::new(),
        (true, Version::V5, delay_s @ 1..) => format!(", has a Will with a delay of {delay_s} s"),
        (true, ..) => ", has a Will".to_owned(),
    };
    let late = if character.slow_acks { ", acknowledges late" } else { "" };
    let packets =
        character.packet_bytes_max.map(|max| format!(", takes packets of {max} bytes")).unwrap_or_default();
    let (receive_max, in_flight_max) = (character.receive_max, character.in_flight_max);
    format!(
        "client {index}: MQTT {version}{road}{session}{will}{late}{packets}; Receive Maximum {receive_max}, {in_flight_max} in flight"
    )
}
