//! What a run goes without: faults and kinds of behaviour that are switched off, and caps on how much there is of the rest.
//!
//! A run is drawn first and cut then, so `--seed N --profile P` with the same cuts is the same run. That is what makes a
//! shrunk failure replayable by command.

use core::fmt;
use std::time::Duration;

use crate::profile::Plan;
use crate::weather::Weather;

macro_rules! parts {
    ($($(#[doc = $doc:literal])+ $part:ident = $name:literal,)+) => {
        /// Something that a run may go without.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Part {
            $($(#[doc = $doc])+ $part,)+
        }

        impl Part {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$part),+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$part => $name,)+
                }
            }
        }
    };
}

parts! {
    #[doc = "QUIC: every client comes over a byte stream."]
    Quic = "quic",
    #[doc = "What happens to datagrams: loss, copies, changed bits, blackholes, addresses that change, strays."]
    Weather = "weather",
    #[doc = "Paths that change under their connections."]
    Paths = "paths",
    #[doc = "Strangers: who sends datagrams and is no client."]
    Strangers = "strangers",
    #[doc = "Layered doors: every byte stream is a plain one."]
    Doors = "doors",
    #[doc = "What happens to streams through doors."]
    Mishaps = "mishaps",
    #[doc = "Callers: who opens a door and is no client."]
    Callers = "callers",
    #[doc = "The broker's clock jumps."]
    Jumps = "jumps",
    #[doc = "Several filters in one packet."]
    Filters = "filters",
    #[doc = "Limits small enough to be reached, of those that are not part of every run."]
    Limits = "limits",
    #[doc = "Connections that end with a reset."]
    Crashes = "crashes",
    #[doc = "Connections that end without a word."]
    Vanishing = "vanishing",
    #[doc = "Clients that come again while their connection stands."]
    Takeovers = "takeovers",
    #[doc = "Clients that leave in order."]
    Leaving = "leaving",
    #[doc = "Clients that stop reading."]
    Stalls = "stalls",
    #[doc = "Clients that acknowledge late."]
    LateAcks = "late-acks",
    #[doc = "Threads that do not run for a while."]
    Preemption = "preemption",
    #[doc = "Writes that are cut to pieces."]
    Pieces = "pieces",
    #[doc = "Wills."]
    Wills = "wills",
    #[doc = "Retained publications."]
    Retained = "retained",
    #[doc = "Shared groups."]
    Groups = "groups",
    #[doc = "Messages that expire."]
    Expiry = "expiry",
    #[doc = "Large messages."]
    Large = "large",
    #[doc = "UNSUBSCRIBE."]
    Unsubscribes = "unsubscribes",
    #[doc = "Sessions that outlive their connection."]
    Sessions = "sessions",
    #[doc = "Clean starts of clients that had a session."]
    CleanStarts = "clean-starts",
    #[doc = "Clients that come back on another shard."]
    Moves = "moves",
    #[doc = "Clients of MQTT 3.1.1."]
    Version3 = "v3",
    #[doc = "Wildcards in filters."]
    Wildcards = "wildcards",
    #[doc = "Several publications at once."]
    Bursts = "bursts",
    #[doc = "QoS 0."]
    QoS0 = "qos0",
    #[doc = "QoS 2."]
    QoS2 = "qos2",
}

impl Part {
    /// The part of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|part| part.name() == name)
    }

    fn cut(self, plan: &mut Plan) {
        let (habits, wire) = (&mut plan.habits, &mut plan.wire);
        match self {
            Self::Quic => plan.quic = None,
            Self::Weather => {
                if let Some(quic) = &mut plan.quic {
                    let stranger_us = quic.weather.stranger_us.take();
                    quic.weather.calm();
                    quic.weather = Weather { stranger_us, bleach_percent: 0, ..quic.weather.clone() };
                }
            }
            Self::Paths => {
                if let Some(quic) = &mut plan.quic {
                    quic.weather.paths = None;
                }
            }
            Self::Strangers => {
                if let Some(quic) = &mut plan.quic {
                    quic.weather.stranger_us = None;
                }
            }
            Self::Doors => plan.doors = None,
            Self::Mishaps => {
                if let Some(doors) = &mut plan.doors {
                    doors.mishap_percent = 0;
                }
            }
            Self::Callers => {
                if let Some(doors) = &mut plan.doors {
                    doors.caller_us = None;
                }
            }
            Self::Jumps => plan.jump_us = None,
            Self::Filters => habits.filters_max = 1,
            Self::Limits => plan.limits = None,
            Self::Crashes => habits.crash = 0,
            Self::Vanishing => habits.vanish = 0,
            Self::Takeovers => habits.supplant = 0,
            Self::Leaving => habits.leave = 0,
            Self::Stalls => habits.stall = 0,
            Self::LateAcks => habits.slow_ack_percent = 0,
            Self::Preemption => wire.preempt_percent = 0,
            Self::Pieces => wire.cut_percent = 0,
            Self::Wills => habits.will_percent = 0,
            Self::Retained => habits.retain_percent = 0,
            Self::Groups => habits.share_percent = 0,
            Self::Expiry => habits.expiry_percent = 0,
            Self::Large => habits.large_percent = 0,
            Self::Unsubscribes => habits.unsubscribe = 0,
            Self::Sessions => habits.persistent_percent = 0,
            Self::CleanStarts => habits.clean_percent = 0,
            Self::Moves => habits.wander_percent = 0,
            Self::Version3 => habits.v3_percent = 0,
            Self::Wildcards => habits.wildcard_percent = 0,
            Self::Bursts => habits.burst = 1,
            Self::QoS0 => habits.qos_weights[0] = 0,
            Self::QoS2 => habits.qos_weights[2] = 0,
        }
    }
}

/// Something that there may be less of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Clients, beside the watcher and the probe.
    Clients,
    /// Shards.
    Shards,
    /// Milliseconds of the storm.
    StormMs,
}

impl Amount {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clients, Self::Shards, Self::StormMs];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Shards => "shards",
            Self::StormMs => "storm-ms",
        }
    }
}

/// All that a run goes without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// One bit for each of `Part::ALL`.
    without: u64,
    /// By `Amount::ALL`.
    at_most: [Option<u32>; 3],
}

impl Cuts {
    /// Also without this.
    #[must_use]
    pub fn without(mut self, part: Part) -> Self {
        self.without |= 1 << part as u32;
        self
    }

    /// Whether it goes without this.
    pub fn lacks(&self, part: Part) -> bool {
        self.without & 1 << part as u32 != 0
    }

    /// At most so many of them, and at least one.
    #[must_use]
    pub fn at_most(mut self, amount: Amount, most: u32) -> Self {
        self.at_most[amount as usize] = Some(most.max(1));
        self
    }

    /// Reads a list of parts, with commas between them.
    pub fn parse_without(self, names: &str) -> Option<Self> {
        names.split(',').try_fold(self, |cuts, name| Some(cuts.without(Part::from_name(name)?)))
    }

    /// Reads a list of amounts like `clients=3,shards=2`.
    pub fn parse_at_most(self, amounts: &str) -> Option<Self> {
        amounts.split(',').try_fold(self, |cuts, amount| {
            let (name, most) = amount.split_once('=')?;
            let amount = Amount::ALL.into_iter().find(|amount| amount.name() == name)?;
            Some(cuts.at_most(amount, most.parse().ok().filter(|most| *most > 0)?))
        })
    }

    pub(crate) fn apply(&self, plan: &mut Plan) {
        for part in Part::ALL.iter().filter(|part| self.lacks(**part)) {
            part.cut(plan);
        }
        let [clients, shards, storm_ms] = self.at_most;
        plan.clients = plan.clients.min(clients.map_or(usize::MAX, |most| most as usize));
        plan.shards = plan.shards.min(shards.map_or(usize::MAX, |most| most as usize));
        let storm = storm_ms.map_or(Duration::MAX, |most| Duration::from_millis(most.into()));
        plan.storm = plan.storm.min(storm);
    }
}

/// As it is written on the command line, with a space in front unless there is nothing.
impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> =
            Part::ALL.iter().filter(|part| self.lacks(**part)).map(|part| part.name()).collect();
        if !parts.is_empty() {
            write!(f, " --without {}", parts.join(","))?;
        }
        let amounts: Vec<_> = Amount::ALL
            .into_iter()
            .filter_map(|amount| Some(format!("{}={}", amount.name(), self.at_most[amount as usize]?)))
            .collect();
        if !amounts.is_empty() {
            write!(f, " --at-most {}", amounts.join(","))?;
        }
        Ok(())
    }
}

const _: () = assert!(Part::ALL.len() <= 32, "one bit each");

#[cfg(test)]
mod tests {
    use super::{Amount, Cuts, Part};

    #[test]
    fn cuts_are_read_as_they_are_written() {
        let cuts = Cuts::default()
            .without(Part::Weather)
            .without(Part::Crashes)
            .at_most(Amount::Clients, 2)
            .at_most(Amount::StormMs, 250);
        assert_eq!(cuts.to_string(), " --without weather,crashes --at-most clients=2,storm-ms=250");
        let read = Cuts::default()
            .parse_without("weather,crashes")
            .and_then(|cuts| cuts.parse_at_most("clients=2,storm-ms=250"));
        assert_eq!(read, Some(cuts));
        assert_eq!(Cuts::default().to_string(), "");
    }

    #[test]
    fn what_is_no_cut_is_refused() {
        assert_eq!(Cuts::default().parse_without("weather,rain"), None);
        for amounts in ["clients", "clients=", "clients=0", "cats=3", "shards=-1"] {
            assert_eq!(Cuts::default().parse_at_most(amounts), None, "{amounts}");
        }
    }
}
