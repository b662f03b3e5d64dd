//! A broker of the tests' own, for MQTT 3.1.1 and one pair: it does to messages what it is told to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// What becomes of the message with this number, counted from 0 (its QoS does not matter).
pub(crate) type Fate = fn(u64) -> Deed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Deliver,
    Lose,
    Repeat,
    /// Deliver it after the next one.
    Delay,
    /// Deliver it, and never acknowledge it.
    Silence,
    /// Deliver it as if it were to be sent at the end of all time.
    Early,
}

/// Serves until the test ends. Returns its URL.
pub(crate) fn broker(fate: Fate) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("mqtt://{} --mqtt 3.1.1", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        let (to_subscriber, for_subscriber) = channel();
        let mut for_subscriber = Some(for_subscriber);
        for stream in listener.incoming().map_while(Result::ok) {
            let to_subscriber = to_subscriber.clone();
            // The generator connects its subscribers first.
            let is_first = for_subscriber.is_some();
            if let Some(packets) = for_subscriber.take() {
                let stream = stream.try_clone().expect("a second handle");
                thread::spawn(move || forward(stream, &packets));
            }
            thread::spawn(move || serve(stream, fate, &to_subscriber, is_first));
        }
    });
    url
}

/// What the subscriber is sent comes from one thread, so that packets do not mix.
fn forward(mut stream: TcpStream, packets: &Receiver<Vec<u8>>) {
    while let Ok(packet) = packets.recv() {
        if stream.write_all(&packet).is_err() {
            return;
        }
    }
}

fn serve(mut stream: TcpStream, fate: Fate, to_subscriber: &Sender<Vec<u8>>, is_subscriber: bool) {
    let mut answers = stream.try_clone().expect("a second handle");
    let mut number = 0;
    let mut delayed = VecDeque::new();
    while let Some((first, body)) = packet(&mut stream) {
        let mut answer = |bytes: &[u8]| {
            if is_subscriber {
                let _ = to_subscriber.send(bytes.to_vec());
            } else {
                let _ = answers.write_all(bytes);
            }
        };
        match first >> 4 {
            CONNECT => answer(&[0x20, 2, 0, 0]),
            SUBSCRIBE => answer(&[0x90, 3, body[0], body[1], 1]),
            PINGREQ => answer(&[0xd0, 0]),
            PUBLISH => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (head, rest) = body.split_at(2 + topic);
                let qos = first >> 1 & 3;
                let payload = if qos > 0 { &rest[2..] } else { rest };
                let deed = fate(number);
                number += 1;
                if qos > 0 && deed != Deed::Silence {
                    answer(&[0x40, 2, rest[0], rest[1]]);
                }
                // Delivered at QoS 0: what is lost here is lost for good.
                let mut deliver = encode(head, payload);
                match deed {
                    Deed::Deliver | Deed::Silence => send(to_subscriber, [deliver]),
                    Deed::Early => {
                        let payload_at = deliver.len() - payload.len();
                        deliver[payload_at + INTENDED_AT..][..8].fill(u8::MAX);
                        send(to_subscriber, [deliver]);
                    }
                    Deed::Lose => {}
                    Deed::Repeat => send(to_subscriber, [deliver.clone(), deliver]),
                    Deed::Delay => delayed.push_back(deliver),
                }
                if deed != Deed::Delay {
                    send(to_subscriber, delayed.drain(..));
                }
            }
            DISCONNECT => return,
            _ => {}
        }
    }
}

fn send(to: &Sender<Vec<u8>>, packets: impl IntoIterator<Item = Vec<u8>>) {
    // The subscriber may have left.
    packets.into_iter().for_each(|packet| drop(to.send(packet)));
}

fn encode(head: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut length = head.len() + payload.len();
    while length >= 128 {
        packet.push((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend_from_slice(head);
    packet.extend_from_slice(payload);
    packet
}

/// The next packet: its first byte, and what follows its length.
fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut first = [0];
    stream.read_exact(&mut first).ok()?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 127) << shift;
        shift += 7;
        if byte[0] < 128 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first[0], body))
}

/// Where a payload says when it was meant to be sent.
const INTENDED_AT: usize = 16;
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;
