//! Puts generated and mutated packets through our codec and through flowsdk's, and explains every disagreement.
//!
//! `cargo run --release -p quelea-benches --example codec_differential -- --inputs 10000000 --seed 1`
//!
//! Half of the inputs are legal packets of every type, version and side; the other half are such packets after up to
//! four random changes. A disagreement is one of three: only we refuse, only flowsdk refuses, or both accept and do not
//! mean the same. Each belongs to a class; `explained.rs` says for every class that may appear who is right and why. An
//! input of any other class makes the run fail (exit code 1) and is printed.

mod explained;
#[path = "../../../mqtt/tests/maker/mod.rs"]
mod maker;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use bytes::BytesMut;
use flowsdk::mqtt_serde::control_packet::MqttPacket;
use flowsdk::mqtt_serde::parser::{ParseError, ParseOk};
use quelea_mqtt::{
    DecodeError, Limits, Packet, PacketType, Sender, Version, connect_answer_version, decode, peek_frame,
};

use crate::maker::{Choices, Lists, PACKET_TYPES, is_sent, mutate};

/// What one codec says of a buffer.
enum Verdict<P> {
    /// The packet is not whole.
    NeedMore,
    Accepted(P),
    Refused(String),
    Panicked,
}

/// In which way two codecs disagree, fine enough that one explanation holds for all inputs of a class.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Class {
    /// The packet type, by its name in the standard.
    packet: &'static str,
    version: Version,
    /// `true` if a client sent it.
    from_client: bool,
    difference: Difference,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Difference {
    /// We refuse for this reason; flowsdk accepts.
    OnlyWeRefuse(String),
    /// flowsdk refuses for this reason; we accept.
    OnlyFlowsdkRefuses(String),
    /// flowsdk refuses a packet that we accept with a filter in it marked as none.
    BadFilter,
    /// We refuse by the fixed header, for this reason; flowsdk waits for the rest.
    WeRefuseEarlier(String),
    /// flowsdk refuses for this reason what we wait for the rest of.
    FlowsdkRefusesEarlier(String),
    /// We refuse a whole packet; flowsdk waits for more of it.
    FlowsdkWaitsForMoreOfAWhole,
    /// One takes for whole what the other does not.
    LengthDiffers,
    /// Both accept, but what flowsdk writes again is something else.
    MeaningDiffers,
    /// Both accept, but what flowsdk writes again we refuse for this reason.
    FlowsdkWritesWhatWeRefuse(String),
    /// Both accept, but flowsdk refuses to write what it has read.
    FlowsdkCannotWrite(String),
    FlowsdkPanics,
}

struct Tally {
    inputs: u64,
    /// The bytes of the first input.
    example: Vec<u8>,
}

struct Arguments {
    inputs: u64,
    seed: u64,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { inputs: 1_000_000, seed: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let target = match word.as_str() {
            "--inputs" => &mut parsed.inputs,
            "--seed" => &mut parsed.seed,
            _ => return Err(format!("unknown argument {word}; known are --inputs N and --seed N")),
        };
        let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
        *target = value.parse().map_err(|error| format!("{word} {value}: {error}"))?;
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // flowsdk's panics are counted, not printed.
    std::panic::set_hook(Box::new(|_| {}));
    let (classes, counts) = compare_all(&arguments);
    let _ = std::panic::take_hook();
    report(&classes, &counts, arguments.inputs)
}

/// What happened to the inputs that both codecs agree on.
#[derive(Default)]
struct Counts {
    accepted: u64,
    refused: u64,
    unfinished: u64,
}

fn compare_all(arguments: &Arguments) -> (BTreeMap<Class, Tally>, Counts) {
    let mut rng = fastrand::Rng::with_seed(arguments.seed);
    let mut classes = BTreeMap::new();
    let mut counts = Counts::default();
    let started = Instant::now();
    let step = (arguments.inputs / 10).max(1);
    for number in 1..=arguments.inputs {
        let (bytes, version, sender) = input(&mut rng, number.is_multiple_of(2));
        if let Some(class) = compare(&bytes, version, sender, &mut counts) {
            let tally = classes.entry(class).or_insert_with(|| Tally { inputs: 0, example: bytes.clone() });
            tally.inputs += 1;
            if bytes.len() < tally.example.len() {
                tally.example = bytes;
            }
        }
        if number % step == 0 {
            eprintln!("{number} inputs, {} classes, {:.0?}", classes.len(), started.elapsed());
        }
    }
    (classes, counts)
}

/// One input: a legal packet, or one with changes.
fn input(rng: &mut fastrand::Rng, changed: bool) -> (Vec<u8>, Version, Sender) {
    let mut entropy = [0; 320];
    let len = rng.usize(16..entropy.len());
    rng.fill(&mut entropy[..len]);
    let (packet_type, version, sender) = loop {
        let packet_type = PACKET_TYPES[rng.usize(..PACKET_TYPES.len())];
        let version = [Version::V311, Version::V5, Version::V5, Version::V31][rng.usize(..4)];
        let sender = [Sender::Client, Sender::Server][rng.usize(..2)];
        if is_sent(packet_type, version, sender) {
            break (packet_type, version, sender);
        }
    };
    let mut choices = Choices::new(&entropy[..len]);
    let lists = Lists::draw(&mut choices, packet_type, version, sender);
    let packet = maker::packet(&mut choices, &lists, packet_type, version, sender);
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("the generator makes legal packets");
    let mut bytes = out.to_vec();
    if changed {
        let mut changes = [0; 24];
        rng.fill(&mut changes);
        mutate(&mut Choices::new(&changes), &mut bytes);
    }
    (bytes, version, sender)
}

/// Compares the two verdicts on one input; `None` if they agree.
fn compare(bytes: &[u8], version: Version, sender: Sender, counts: &mut Counts) -> Option<Class> {
    let packet = bytes.first().map(|&first| PacketType::from_first_byte(first))?;
    // A CONNECT names its own version, and flowsdk wants to be told which.
    let version = match packet {
        Some(PacketType::Connect) => connect_answer_version(bytes).unwrap_or(version),
        _ => version,
    };
    let limits = Limits::default();
    let peeked = peek_frame(bytes, sender, &limits);
    // flowsdk gets what its own stream parser would cut off for it: the one packet, if it is whole.
    let bytes = match peeked {
        Ok(Some(frame)) if frame.packet_bytes <= bytes.len() => &bytes[..frame.packet_bytes],
        _ => bytes,
    };
    let ours = our_verdict(bytes, version, sender, &limits);
    let difference = match (ours, their_verdict(bytes, version)) {
        (_, Verdict::Panicked) => Difference::FlowsdkPanics,
        (Verdict::Panicked, _) => unreachable!("our verdict is not caught"),
        (Verdict::NeedMore, Verdict::NeedMore) => {
            counts.unfinished += 1;
            return None;
        }
        (Verdict::Refused(_), Verdict::Refused(_)) => {
            counts.refused += 1;
            return None;
        }
        (Verdict::Accepted(ours), Verdict::Accepted(theirs)) => {
            let Some(difference) = written_again(&theirs, version, sender, &ours) else {
                counts.accepted += 1;
                return None;
            };
            difference
        }
        (Verdict::Refused(why), Verdict::Accepted(_)) => Difference::OnlyWeRefuse(why),
        (Verdict::Accepted(packet), Verdict::Refused(_)) if has_bad_filter(&packet) => Difference::BadFilter,
        (Verdict::Accepted(_), Verdict::Refused(why)) => Difference::OnlyFlowsdkRefuses(why),
        (Verdict::Refused(why), Verdict::NeedMore) if peeked.is_err() => Difference::WeRefuseEarlier(why),
        (Verdict::Refused(_), Verdict::NeedMore) => Difference::FlowsdkWaitsForMoreOfAWhole,
        (Verdict::NeedMore, Verdict::Refused(why)) => Difference::FlowsdkRefusesEarlier(why),
        (Verdict::NeedMore, Verdict::Accepted(_)) | (Verdict::Accepted(_), Verdict::NeedMore) => {
            Difference::LengthDiffers
        }
    };
    let packet = packet.map_or("type 0", PacketType::name);
    Some(Class { packet, version, from_client: sender == Sender::Client, difference })
}

fn our_verdict<'a>(
    bytes: &'a [u8],
    version: Version,
    sender: Sender,
    limits: &Limits,
) -> Verdict<Packet<'a>> {
    match peek_frame(bytes, sender, limits) {
        Err(error) => Verdict::Refused(reason(&error)),
        Ok(Some(frame)) if frame.packet_bytes <= bytes.len() => {
            match decode(bytes, version, sender, limits) {
                Ok(packet) => Verdict::Accepted(packet),
                Err(error) => Verdict::Refused(reason(&error)),
            }
        }
        Ok(_) => Verdict::NeedMore,
    }
}

fn has_bad_filter(packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Subscribe(subscribe) => subscribe.filters().any(|entry| entry.topic.is_err()),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.filters().any(|(_, topic)| topic.is_err()),
        _ => false,
    }
}

/// A refusal of ours, in short.
fn reason(error: &DecodeError) -> String {
    format!("{:?}, {}", error.kind(), error.field())
}

fn their_verdict(bytes: &[u8], version: Version) -> Verdict<MqttPacket> {
    match catch_unwind(|| MqttPacket::from_bytes_with_version(bytes, version.level())) {
        Err(_) => Verdict::Panicked,
        Ok(Ok(ParseOk::Packet(packet, consumed))) if consumed == bytes.len() => Verdict::Accepted(packet),
        Ok(Ok(ParseOk::Packet(_, consumed))) => Verdict::Refused(format!(
            "took {} of the packet's bytes",
            if consumed > bytes.len() { "more" } else { "not all" }
        )),
        Ok(Ok(_)) | Ok(Err(ParseError::More(..))) => Verdict::NeedMore,
        Ok(Err(error)) => Verdict::Refused(without_numbers(&error.to_string())),
    }
}

/// A message without its numbers, so that the same fault always reads the same.
fn without_numbers(message: &str) -> String {
    message.chars().map(|character| if character.is_ascii_digit() { '#' } else { character }).collect()
}

/// Whether what flowsdk writes again means what we have read.
fn written_again(
    theirs: &MqttPacket,
    version: Version,
    sender: Sender,
    ours: &Packet<'_>,
) -> Option<Difference> {
    match catch_unwind(|| theirs.to_bytes()) {
        Err(_) => Some(Difference::FlowsdkPanics),
        Ok(Err(error)) => Some(Difference::FlowsdkCannotWrite(without_numbers(&error.to_string()))),
        Ok(Ok(bytes)) => match decode(&bytes, version, sender, &Limits::default()) {
            Ok(again) if again == *ours => None,
            Ok(_) => Some(Difference::MeaningDiffers),
            Err(error) => Some(Difference::FlowsdkWritesWhatWeRefuse(reason(&error))),
        },
    }
}

/// Prints the explained classes by explanation, then every unexplained one.
fn report(classes: &BTreeMap<Class, Tally>, counts: &Counts, inputs: u64) -> ExitCode {
    let mut explained: BTreeMap<&str, Vec<(&Class, &Tally)>> = BTreeMap::new();
    let mut unexplained = Vec::new();
    for (class, tally) in classes {
        match explained::explain(class) {
            Some(explanation) => explained.entry(explanation).or_default().push((class, tally)),
            None => unexplained.push((class, tally)),
        }
    }
    for (explanation, members) in &explained {
        let packets: BTreeSet<&str> = members.iter().map(|(class, _)| class.packet).collect();
        let inputs: u64 = members.iter().map(|(_, tally)| tally.inputs).sum();
        println!("{inputs} inputs in {} classes ({packets:?})", members.len());
        println!("    {explanation}");
        if let Some((class, tally)) = members.iter().min_by_key(|(_, tally)| tally.example.len()) {
            print_example(class, tally);
        }
    }
    for (class, tally) in &unexplained {
        println!("UNEXPLAINED: {} inputs", tally.inputs);
        print_example(class, tally);
    }
    let disagreements: u64 = classes.values().map(|tally| tally.inputs).sum();
    let Counts { accepted, refused, unfinished } = *counts;
    println!(
        "{inputs} inputs: both accept {accepted}, with the same meaning; both refuse {refused}; both wait {unfinished}"
    );
    println!(
        "{disagreements} disagreements in {} classes with {} explanations; {} classes unexplained",
        classes.len(),
        explained.len(),
        unexplained.len()
    );
    if unexplained.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_example(class: &Class, tally: &Tally) {
    let side = if class.from_client { "client" } else { "server" };
    let bytes: String = tally.example.iter().take(48).map(|byte| format!("{byte:02x}")).collect();
    let more = if tally.example.len() > 48 { "…" } else { "" };
    println!(
        "    such as {bytes}{more}: {} of {} from a {side}, {:?}",
        class.packet, class.version, class.difference
    );
}
