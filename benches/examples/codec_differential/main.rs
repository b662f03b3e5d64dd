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

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use bytes::BytesMut;
use flowsdk::mqtt_serde::control_packet::MqttPacket;
use flowsdk::mqtt_serde::parser::{ParseError, ParseOk};
use quelea_mqtt::{Limits, Packet, PacketType, Sender, Version, decode, peek_frame};

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
    difference: Difference,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Difference {
    /// We refuse for this reason; flowsdk accepts.
    OnlyWeRefuse(String),
    /// flowsdk refuses for this reason; we accept.
    OnlyFlowsdkRefuses(String),
    /// We refuse by the first bytes for this reason; flowsdk waits for the rest.
    WeRefuseEarlier(String),
    /// flowsdk refuses for this reason what we wait for the rest of.
    FlowsdkRefusesEarlier(String),
    /// One takes for whole what the other does not.
    LengthDiffers,
    /// Both accept, but what flowsdk writes again is something else.
    MeaningDiffers,
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
    let first = *bytes.first()?;
    let limits = Limits::default();
    let ours = our_verdict(bytes, version, sender, &limits);
    // flowsdk gets what its own stream parser would cut off for it: the one packet, if it is whole.
    let packet_bytes = match peek_frame(bytes, sender, &limits) {
        Ok(Some(frame)) => frame.packet_bytes.min(bytes.len()),
        _ => bytes.len(),
    };
    let bytes = &bytes[..packet_bytes];
    let theirs = their_verdict(bytes, version);
    let difference = match (ours, theirs) {
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
            match written_again(&theirs, version, sender, &ours) {
                None => {
                    counts.accepted += 1;
                    return None;
                }
                Some(difference) => difference,
            }
        }
        (Verdict::Refused(why), Verdict::Accepted(_)) => Difference::OnlyWeRefuse(why),
        (Verdict::Accepted(_), Verdict::Refused(why)) => Difference::OnlyFlowsdkRefuses(why),
        (Verdict::Refused(why), Verdict::NeedMore) => Difference::WeRefuseEarlier(why),
        (Verdict::NeedMore, Verdict::Refused(why)) => Difference::FlowsdkRefusesEarlier(why),
        (Verdict::NeedMore, Verdict::Accepted(_)) | (Verdict::Accepted(_), Verdict::NeedMore) => {
            Difference::LengthDiffers
        }
    };
    let packet = PacketType::from_first_byte(first).map_or("type 0", PacketType::name);
    Some(Class { packet, difference })
}

fn our_verdict<'a>(
    bytes: &'a [u8],
    version: Version,
    sender: Sender,
    limits: &Limits,
) -> Verdict<Packet<'a>> {
    let refused =
        |error: quelea_mqtt::DecodeError| Verdict::Refused(format!("{:?}, {}", error.kind(), error.field()));
    match peek_frame(bytes, sender, limits) {
        Err(error) => refused(error),
        Ok(Some(frame)) if frame.packet_bytes <= bytes.len() => {
            match decode(&bytes[..frame.packet_bytes], version, sender, limits) {
                Ok(packet) => Verdict::Accepted(packet),
                Err(error) => refused(error),
            }
        }
        Ok(_) => Verdict::NeedMore,
    }
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
            _ => Some(Difference::MeaningDiffers),
        },
    }
}

fn report(classes: &BTreeMap<Class, Tally>, counts: &Counts, inputs: u64) -> ExitCode {
    let mut unexplained = 0;
    let mut disagreements = 0;
    for (class, tally) in classes {
        disagreements += tally.inputs;
        let example: String = tally.example.iter().take(48).map(|byte| format!("{byte:02x}")).collect();
        println!("{:>9} × {}, {:?}", tally.inputs, class.packet, class.difference);
        println!("            such as {example}{}", if tally.example.len() > 48 { "…" } else { "" });
        match explained::explain(class) {
            Some(explanation) => println!("            {explanation}"),
            None => {
                unexplained += 1;
                println!("            UNEXPLAINED");
            }
        }
    }
    let Counts { accepted, refused, unfinished } = *counts;
    println!(
        "{inputs} inputs: both accept {accepted} and mean the same, both refuse {refused}, both wait for more {unfinished};"
    );
    println!("{disagreements} disagreements in {} classes, {unexplained} of them unexplained", classes.len());
    if unexplained == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
