//! The router: matching against a million filters, churn, bytes per filter, the price of an envelope.
//!
//! `cargo bench -p quelea-benches --bench router`, with a part of a name behind `--` to run less
//! (`match`, `interest`, `churn`, `fan-out`, `retained`, `envelope`; `bytes` prints its table alone).
//!
//! Topics and filters have depth 1 to 10, all equally often, and a unique part; the topics asked for are drawn
//! at random from all, so that what is measured includes the cache misses of a broker with a million filters.
//! The topic itself is in the cache, as it is when its PUBLISH has just been decoded.
//!
//! Times are CPU time of the measuring thread: preemption by others does not count, though their share of
//! caches and memory does.

use std::hint::{black_box, spin_loop};
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, Criterion, Throughput};
use quelea_mqtt::{TopicFilter, TopicName};
use quelea_router::{
    FilterTrie, Interest, Mailbox, MeshConfig, RetainedLimits, RetainedStore, ShardId, WalkBudget, mesh,
};

const FILTERS: usize = 1_000_000;
/// Topics asked for, one after the other; more than the caches hold of what they lead to.
const TOPICS: usize = 1 << 16;
const SEED: u64 = 7;

/// What a session would use: a handle, and what it asked for.
type Trie = FilterTrie<u64, u64>;

#[derive(Clone, Copy)]
enum Kind {
    Exact,
    Plus,
    Hash,
    Mixed,
}

impl Kind {
    const ALL: [(&str, Self); 4] =
        [("exact", Self::Exact), ("plus", Self::Plus), ("hash", Self::Hash), ("mixed", Self::Mixed)];

    fn of(self, index: usize) -> Self {
        match self {
            Self::Mixed => [Self::Exact, Self::Plus, Self::Hash][index / 10 % 3],
            kind => kind,
        }
    }
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text, 128).expect("a filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic")
}

/// The levels of topic `index`: wide at the end, where it is unique, and narrower towards the root.
fn levels(index: usize) -> Vec<String> {
    let depth = 1 + index % 10;
    let inner = (0..depth - 1).map(|level| format!("level{level}-{}", index / 10 % (20 + 30 * level)));
    inner.chain([format!("device{index:07}")]).collect()
}

fn topic_text(index: usize, kind: Kind) -> String {
    let mut levels = levels(index);
    if matches!(kind.of(index), Kind::Hash) {
        levels.push("state".into());
    }
    levels.join("/")
}

fn filter_text(index: usize, kind: Kind) -> String {
    let mut levels = levels(index);
    match kind.of(index) {
        Kind::Exact | Kind::Mixed => {}
        // In the place of an inner level; at depth 1 below the unique one.
        Kind::Plus if levels.len() == 1 => levels.push("+".into()),
        Kind::Plus => {
            let at = index / 10 % (levels.len() - 1);
            levels[at] = "+".into();
        }
        Kind::Hash => levels.push("#".into()),
    }
    levels.join("/")
}

fn asked_topics(kind: Kind) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(SEED);
    (0..TOPICS).map(|_| topic_text(random.usize(0..FILTERS), kind)).collect()
}

fn trie_of(indexes: impl Iterator<Item = usize>, kind: Kind) -> Trie {
    let mut trie = Trie::new(SEED);
    for index in indexes {
        trie.insert(filter(&filter_text(index, kind)), index as u64, 0);
    }
    trie
}

/// CPU time of this thread.
struct ThreadTime;

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Topics made ready before each reading of the clock, so that they are in the cache and the reading (a
/// system call for CPU time) adds a few nanoseconds to each at most.
const BATCH: BatchSize = BatchSize::NumIterations(128);

fn bench_match(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("match: against 1M filters");
    group.throughput(Throughput::Elements(1));
    for (name, kind) in Kind::ALL {
        let (trie, topics) = (trie_of(0..FILTERS, kind), asked_topics(kind));
        let mut hits = 0;
        topics.iter().for_each(|text| {
            trie.for_each_match(topic(text), |_, _| hits += 1);
        });
        println!(
            "{name}: {} filters, {:.2} matches per topic",
            trie.len_filters(),
            hits as f64 / TOPICS as f64
        );
        let mut topics = topics.iter().cycle();
        group.bench_function(name, |b| {
            b.iter_batched(
                || topic(topics.next().expect("it cycles")),
                |topic| {
                    trie.for_each_match(topic, |key, _| {
                        black_box(key);
                    });
                },
                BATCH,
            );
        });
    }
    group.finish();
}

fn bench_interest(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("interest: in 1M filters of 15 shards");
    for (name, kind) in Kind::ALL {
        let mut interest = Interest::new(SEED);
        for index in 0..FILTERS {
            interest.add(ShardId::from_index(1 + index % 15), filter(&filter_text(index, kind)));
        }
        let topics = asked_topics(kind);
        let mut topics = topics.iter().cycle();
        group.bench_function(name, |b| {
            b.iter_batched(
                || topic(topics.next().expect("it cycles")),
                |topic| interest.shards(topic),
                BATCH,
            );
        });
    }
    group.finish();
}

/// One subscribe and one unsubscribe beside a million filters that stay.
fn bench_churn(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("churn: subscribe and unsubscribe beside 1M filters");
    for (name, kind) in Kind::ALL {
        let mut trie = trie_of(0..FILTERS, kind);
        let new: Vec<_> = (FILTERS..FILTERS + TOPICS).map(|index| filter_text(index, kind)).collect();
        // A thousand come before the first goes, as sessions do.
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                trie.insert(filter(&new[next % TOPICS]), 1, 0);
                if next >= 1_000 {
                    trie.remove(filter(&new[(next - 1_000) % TOPICS]), 1);
                }
                next += 1;
            });
        });
    }
    group.finish();
}

fn bench_fan_out(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("fan-out");
    for subscribers in [1u64, 100, 10_000] {
        let mut trie = Trie::new(SEED);
        for key in 0..subscribers {
            trie.insert(filter("site/+/state"), key, key);
        }
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(format!("{subscribers} subscribers"), |b| {
            b.iter(|| {
                let mut sum = 0;
                trie.for_each_match(topic("site/a/state"), |key, value| sum += key ^ value);
                sum
            });
        });
    }
    group.finish();
}

fn bench_retained(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("retained: 1M topics");
    let limits = RetainedLimits { messages_max: FILTERS, bytes_max: usize::MAX };
    let mut store = RetainedStore::new(limits);
    for index in 0..FILTERS {
        store.set(topic(&topic_text(index, Kind::Exact)), index, 0).expect("there is room");
    }
    let topics = asked_topics(Kind::Exact);
    let mut next = topics.iter().cycle();
    group.bench_function("replace", |b| {
        b.iter_batched(|| topic(next.next().expect("it cycles")), |topic| store.set(topic, 0, 0), BATCH);
    });
    group.throughput(Throughput::Elements(1_000));
    for (name, text) in [("walk 1000 of #", "#"), ("walk 1000 of +/+/nothing", "+/+/nothing")] {
        let mut after = None;
        group.bench_function(name, |b| {
            b.iter(|| {
                after = store.walk(
                    filter(text),
                    after.as_deref(),
                    &mut WalkBudget::steps(1_000),
                    |_, message| {
                        black_box(message);
                        true
                    },
                );
            });
        });
    }
    group.finish();
}

/// The heap of all shards together, per filter; the filters differ and are spread evenly.
fn print_bytes() {
    println!("bytes per filter (1M filters in the node, one subscriber each, interest replicated)");
    println!("{:<8}{:>12}{:>12}{:>12}{:>16}", "", "1 shard", "4 shards", "16 shards", "1 shard by RSS");
    for (name, kind) in Kind::ALL {
        let mut row = format!("{name:<8}");
        for shards in [1, 4, 16] {
            // All shards are alike: one is built, with its own filters and its interest in all others'.
            let trie = trie_of((0..FILTERS).filter(|index| index / 30 % shards == 0), kind);
            let mut interest = Interest::new(SEED);
            for index in (0..FILTERS).filter(|index| index / 30 % shards != 0) {
                interest.add(ShardId::from_index(index / 30 % shards), filter(&filter_text(index, kind)));
            }
            let bytes = (trie.bytes() + interest.bytes()) * shards;
            row += &format!("{:>12.1}", bytes as f64 / FILTERS as f64);
        }
        println!("{row}{:>16.1}", rss_of_one_shard(name) as f64 / FILTERS as f64);
    }
}

/// What the trie adds to the resident memory of a process of its own, the allocator's overhead with it.
fn rss_of_one_shard(name: &str) -> usize {
    let program = std::env::current_exe().expect("it runs");
    let output = std::process::Command::new(program).args([RSS_OF, name]).output().expect("it runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("a number of bytes, not {text:?}"))
}

fn print_rss_of(name: &str) {
    let kind = Kind::ALL.iter().find(|kind| kind.0 == name).expect("the name of a kind").1;
    let before = rss_bytes();
    let trie = trie_of(0..FILTERS, kind);
    println!("{}", rss_bytes() - before);
    drop(trie);
}

/// The argument with which this program starts itself.
const RSS_OF: &str = "rss-of";

/// Resident memory of this process.
fn rss_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("statm has a second field") * 4096
}

/// What goes through the mesh: a pointer and some handles.
type Envelope = [u64; 4];
type TestMailbox = Mailbox<(), (), Envelope, ()>;

/// A lane deep enough that neither thread waits for the other more than it must.
const LANE: usize = 4096;

fn envelope_lanes() -> [TestMailbox; 2] {
    let config = MeshConfig { replies: 1, control: 1, forward: LANE, deliver: 1 };
    let mailboxes = mesh(2, config);
    mailboxes.try_into().unwrap_or_else(|_| unreachable!("two shards"))
}

/// What one message costs, in nanoseconds; one round of [`two_cores`].
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    sender_cpu: f64,
    receiver_cpu: f64,
}

/// Moves envelopes from a thread on the first core to one on the last.
fn two_cores(
    mut send: impl FnMut(Envelope) -> bool + Send,
    mut recv: impl FnMut() -> Option<Envelope> + Send,
) -> Cost {
    let cores = core_affinity::get_core_ids().expect("the system names its cores");
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let ready = std::sync::Barrier::new(2);
    let ready = &ready;
    let each = |time: Duration| time.as_nanos() as f64 / ENVELOPES as f64;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            core_affinity::set_for_current(last);
            ready.wait();
            let cpu = ThreadTime.start();
            for index in 0..ENVELOPES {
                let mut idle = 0u32;
                let envelope = loop {
                    match recv() {
                        Some(envelope) => break envelope,
                        None => wait(&mut idle),
                    }
                };
                assert_eq!(envelope[0], index);
            }
            ThreadTime.end(cpu)
        });
        let sender = scope.spawn(move || {
            core_affinity::set_for_current(first);
            ready.wait();
            let (start, cpu) = (WallTime.start(), ThreadTime.start());
            for index in 0..ENVELOPES {
                let mut idle = 0u32;
                while !send([index, 0, 0, 0]) {
                    wait(&mut idle);
                }
            }
            (start, ThreadTime.end(cpu))
        });
        let (start, sender_cpu) = sender.join().expect("it sends");
        let receiver_cpu = receiver.join().expect("it receives in order");
        let wall = WallTime.end(start);
        Cost { wall: each(wall), sender_cpu: each(sender_cpu), receiver_cpu: each(receiver_cpu) }
    })
}

/// Many short rounds: the fastest is one that nobody disturbed, the median says how often that was. On a machine
/// with other load neither is of use: two threads that never run at the same time do not contend.
fn print_two_cores(name: &str, mut round: impl FnMut() -> Cost) {
    let mut costs: Vec<Cost> = (0..ROUNDS).map(|_| round()).collect();
    costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    let (best, median) = (costs[0], costs[ROUNDS / 2]);
    let row = [best.wall, best.sender_cpu, best.receiver_cpu];
    let row = row.into_iter().chain([median.wall, median.sender_cpu, median.receiver_cpu]);
    let row: String = row.map(|cost| format!("{cost:>10.1}")).collect();
    println!("{name:<28}{row}");
}

const ENVELOPES: u64 = 200_000;
const ROUNDS: usize = 51;

fn wait(idle: &mut u32) {
    *idle += 1;
    if idle.is_multiple_of(64) {
        std::thread::yield_now();
    } else {
        spin_loop();
    }
}

fn print_envelopes() {
    let head = ["wall", "sender", "receiver"].map(|part| format!("{part:>10}")).concat();
    println!(
        "envelope of 32 bytes between two pinned threads, ns: fastest of {ROUNDS} rounds, then the median"
    );
    println!("{:<28}{head}{head}", "");
    let peer = [ShardId::from_index(1), ShardId::from_index(0)];
    print_two_cores("mailbox (rtrb)", || {
        let [mut from, mut to] = envelope_lanes();
        two_cores(move |e| from.try_send_forward(peer[0], e).is_ok(), move || to.recv_forward(peer[1]))
    });
    print_two_cores("crossbeam ArrayQueue", || {
        let queue = crossbeam_queue::ArrayQueue::new(LANE);
        two_cores(|e| queue.push(e).is_ok(), || queue.pop())
    });
    print_two_cores("crossbeam channel::bounded", || {
        let (sender, receiver) = crossbeam_channel::bounded(LANE);
        two_cores(move |e| sender.try_send(e).is_ok(), move || receiver.try_recv().ok())
    });
}

/// The instructions alone: one thread, 64 in, 64 out.
fn bench_envelope(c: &mut Criterion<ThreadTime>) {
    let peer = [ShardId::from_index(1), ShardId::from_index(0)];
    let mut group = c.benchmark_group("envelope: in one thread, 64 in and 64 out");
    group.throughput(Throughput::Elements(64));
    let [mut from, mut to] = envelope_lanes();
    group.bench_function("mailbox (rtrb)", |b| {
        b.iter(|| {
            (0..64).for_each(|i| assert!(from.try_send_forward(peer[0], [i, 0, 0, 0]).is_ok()));
            (0..64).for_each(|_| assert!(black_box(to.recv_forward(peer[1])).is_some()));
        });
    });
    let queue = crossbeam_queue::ArrayQueue::new(LANE);
    group.bench_function("crossbeam ArrayQueue", |b| {
        b.iter(|| {
            (0..64).for_each(|i| assert!(queue.push([i, 0, 0, 0]).is_ok()));
            (0..64).for_each(|_| assert!(black_box(queue.pop()).is_some()));
        });
    });
    let (sender, receiver) = crossbeam_channel::bounded(LANE);
    group.bench_function("crossbeam channel::bounded", |b| {
        b.iter(|| {
            (0..64).for_each(|i| assert!(sender.try_send([i, 0, 0, 0]).is_ok()));
            (0..64).for_each(|_| assert!(black_box(receiver.try_recv()).is_ok()));
        });
    });
    group.finish();
}

/// One group of measurements.
type Part = fn(&mut Criterion<ThreadTime>);

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let (Some(RSS_OF), Some(name)) = (arguments.next().as_deref(), arguments.next()) {
        return print_rss_of(&name);
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let runs = |part: &str| wanted.as_deref().is_none_or(|wanted| wanted.contains(part));
    let mut criterion = Criterion::default()
        .with_measurement(ThreadTime)
        .sample_size(30)
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let parts: [(&str, Part); 6] = [
        ("match", bench_match),
        ("interest", bench_interest),
        ("churn", bench_churn),
        ("fan-out", bench_fan_out),
        ("retained", bench_retained),
        ("envelope", bench_envelope),
    ];
    if runs("bytes") {
        print_bytes();
    }
    if runs("envelope") {
        print_envelopes();
    }
    for (name, part) in parts {
        if runs(name) {
            part(&mut criterion);
        }
    }
    criterion.final_summary();
}
