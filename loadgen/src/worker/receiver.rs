//! One receiver: a subscriber, or the members of a group together, with a book for each publisher.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use quelea_mqtt::QoS;

use crate::book::{Arrival, Counts, Path};
use crate::payload::Stamp;

pub(super) struct Receiver {
    /// Its number in the run.
    pub(super) number: u32,
    run: u32,
    books: Books,
    /// Messages that are none of this run's.
    pub(super) foreign: u64,
}

enum Books {
    /// The publishers of this run, from `first` on.
    Known { first: u32, books: Vec<Book> },
    /// Publishers of other processes, as they appear.
    Open(HashMap<u32, Book, FixedState>),
}

/// Publishers of other processes that one subscriber keeps apart.
const PUBLISHERS_MAX: usize = 65_536;

struct Book {
    path: Path,
    first: u64,
    qos: QoS,
}

/// One path at the end of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathResult {
    pub(crate) publisher: u32,
    /// Of the last delivery.
    pub(crate) qos: QoS,
    pub(crate) counts: Counts,
    /// From the first number to the largest one seen: what a subscriber who does not know the publisher must expect.
    pub(crate) span: u64,
}

impl Receiver {
    /// `publishers`: whose messages it must get; `None` if that is not known.
    pub(super) fn new(number: u32, run: u32, publishers: Option<std::ops::Range<u32>>) -> Self {
        let books = match publishers {
            Some(publishers) => Books::Known {
                first: publishers.start,
                books: publishers.map(|_| Book::new(Path::default(), 0)).collect(),
            },
            None => Books::Open(HashMap::with_hasher(FixedState::with_seed(run.into()))),
        };
        Self { number, run, books, foreign: 0 }
    }

    /// Notes a message. `None`: it is none of this run's, or its publisher has no place in the books.
    pub(super) fn note(&mut self, stamp: &Stamp, qos: QoS) -> Option<Arrival> {
        let book = if stamp.run == self.run { self.books.of(stamp) } else { None };
        let Some(book) = book else {
            self.foreign += 1;
            return None;
        };
        book.qos = qos;
        Some(book.path.note(stamp.sequence))
    }

    pub(super) fn results(&self) -> Vec<PathResult> {
        let result = |publisher: u32, book: &Book| PathResult {
            publisher,
            qos: book.qos,
            counts: book.path.counts,
            span: book.path.span(book.first),
        };
        match &self.books {
            Books::Known { first, books } => {
                (*first..).zip(books).map(|(publisher, book)| result(publisher, book)).collect()
            }
            Books::Open(books) => books.iter().map(|(publisher, book)| result(*publisher, book)).collect(),
        }
    }
}

impl Books {
    fn of(&mut self, stamp: &Stamp) -> Option<&mut Book> {
        match self {
            Self::Known { first, books } => {
                let index = stamp.publisher.checked_sub(*first)?;
                books.get_mut(index as usize)
            }
            Self::Open(books) => {
                if books.len() >= PUBLISHERS_MAX && !books.contains_key(&stamp.publisher) {
                    return None;
                }
                let first = stamp.sequence;
                Some(
                    books
                        .entry(stamp.publisher)
                        .or_insert_with(|| Book::new(Path::beginning_at(first), first)),
                )
            }
        }
    }
}

impl Book {
    fn new(path: Path, first: u64) -> Self {
        Self { path, first, qos: QoS::AtMostOnce }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(run: u32, publisher: u32, sequence: u64) -> Stamp {
        Stamp { run, publisher, sequence, intended: 0 }
    }

    #[test]
    fn only_this_runs_publishers_are_noted() {
        let mut receiver = Receiver::new(0, 7, Some(3..5));
        assert_eq!(receiver.note(&stamp(7, 3, 0), QoS::AtMostOnce), Some(Arrival::New));
        for other in [stamp(8, 3, 1), stamp(7, 2, 0), stamp(7, 5, 0)] {
            assert_eq!(receiver.note(&other, QoS::AtMostOnce), None);
        }
        assert_eq!(receiver.foreign, 3);
        let results = receiver.results();
        assert_eq!(results.iter().map(|path| path.publisher).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(results[0].counts.received, 1);
    }

    #[test]
    fn unknown_publishers_begin_where_they_are_met() {
        let mut receiver = Receiver::new(0, 0, None);
        for sequence in [100, 101, 103] {
            receiver.note(&stamp(0, 9, sequence), QoS::AtLeastOnce);
        }
        let results = receiver.results();
        assert_eq!((results[0].span, results[0].counts.received), (4, 3));
        assert_eq!(results[0].qos, QoS::AtLeastOnce);
    }

    #[test]
    fn there_is_a_limit_to_unknown_publishers() {
        let mut receiver = Receiver::new(0, 0, None);
        for publisher in 0..=PUBLISHERS_MAX as u32 {
            receiver.note(&stamp(0, publisher, 0), QoS::AtMostOnce);
        }
        assert_eq!(receiver.results().len(), PUBLISHERS_MAX);
        assert_eq!(receiver.foreign, 1);
    }
}
