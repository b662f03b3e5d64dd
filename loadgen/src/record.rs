//! What one thread measures: histograms from 1 ns to an hour, three significant digits, merged at the end.

use hdrhistogram::Histogram;
use quelea_mqtt::QoS;

use crate::clock::{Nanos, SECOND};

/// Nanoseconds.
pub(crate) type Latencies = Histogram<u64>;

/// The longest latency told apart; what is longer counts as this.
const LATENCY_MAX: Nanos = 3600 * SECOND;
const DIGITS: u8 = 3;

/// An empty histogram, 260 KB.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).expect("bounds that fit each other")
}

/// Histograms of one kind, by QoS, made when first needed.
#[derive(Default)]
pub(crate) struct ByQos([Option<Box<Latencies>>; 3]);

impl ByQos {
    pub(crate) fn record(&mut self, qos: QoS, latency: Nanos) {
        let histogram = self.0[qos as usize].get_or_insert_with(|| Box::new(latencies()));
        histogram.saturating_record(latency.max(1));
    }

    pub(crate) fn get(&self, qos: QoS) -> Option<&Latencies> {
        self.0[qos as usize].as_deref()
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            if let Some(theirs) = theirs {
                add(mine.get_or_insert_with(|| Box::new(latencies())), theirs);
            }
        }
    }
}

/// Everything that one thread, or all of them, have measured.
pub(crate) struct Record {
    /// From the intended time of a message to its arrival, by the QoS of the delivery.
    pub(crate) delivery: ByQos,
    /// From the intended time to PUBACK or PUBCOMP, by QoS.
    pub(crate) acknowledgement: ByQos,
    /// From the intended time of a connection to CONNACK.
    pub(crate) connect: Latencies,
    /// From the intended time of a message to its write, where nothing but ourselves could hold it back, else to the beginning of the hold.
    pub(crate) lag: Latencies,
    /// The length of turns, from the time at which they were meant to begin, for each message and read of them: how long bytes may have
    /// waited for us unread.
    pub(crate) turn: Latencies,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            delivery: ByQos::default(),
            acknowledgement: ByQos::default(),
            connect: latencies(),
            lag: latencies(),
            turn: latencies(),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.delivery.merge(&other.delivery);
        self.acknowledgement.merge(&other.acknowledgement);
        add(&mut self.connect, &other.connect);
        add(&mut self.lag, &other.lag);
        add(&mut self.turn, &other.turn);
    }
}

/// Adds one histogram to another of the same bounds.
pub(crate) fn add(total: &mut Latencies, part: &Latencies) {
    total.add(part).expect("all histograms have the same bounds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_up_to_an_hour() {
        let mut histogram = latencies();
        for value in [1, 999, 1_234_567, 59 * 60 * SECOND] {
            histogram.reset();
            histogram.saturating_record(value);
            let read = histogram.value_at_quantile(1.0);
            assert!(read.abs_diff(value) as f64 <= value as f64 / 1000.0, "{value} is read as {read}");
        }
        histogram.saturating_record(u64::MAX);
        assert!(histogram.max() >= LATENCY_MAX);
    }

    #[test]
    fn records_of_threads_are_merged() {
        let (mut first, mut second) = (Record::new(), Record::new());
        first.delivery.record(QoS::AtMostOnce, 10);
        second.delivery.record(QoS::AtMostOnce, 20);
        second.delivery.record(QoS::ExactlyOnce, 0);
        first.merge(&second);
        assert_eq!(first.delivery.get(QoS::AtMostOnce).unwrap().len(), 2);
        assert!(first.delivery.get(QoS::AtLeastOnce).is_none());
        assert_eq!(first.delivery.get(QoS::ExactlyOnce).unwrap().len(), 1);
    }
}
