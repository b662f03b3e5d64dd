//! Packets as text, so that a test shows every byte that passes.
//!
//! `"10 .. 0004'MQTT' 05 02 003C 00 0001'a'"`: pairs of hexadecimal digits are bytes, quoted text stands for itself,
//! `..` is the Remaining Length of what follows, `;` separates packets; blanks mean nothing.

use crate::bed::{Bed, Client};
use quelea_mqtt::{Limits, Packet, Sender, Version};

/// The bytes that a text stands for.
pub(crate) fn wire(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets(text) {
        bytes.extend_from_slice(&packet);
    }
    bytes
}

/// The same, packet by packet.
fn packets(text: &str) -> Vec<Vec<u8>> {
    let (mut done, mut head, mut body) = (Vec::new(), None::<Vec<u8>>, Vec::new());
    let mut chars = text.chars().peekable();
    let mut end = |head: &mut Option<Vec<u8>>, body: &mut Vec<u8>| {
        let body = core::mem::take(body);
        let packet = match head.take() {
            Some(head) => framed(head, &body),
            None => body,
        };
        if !packet.is_empty() {
            done.push(packet);
        }
    };
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\n' => {}
            ';' => end(&mut head, &mut body),
            '.' => {
                assert_eq!(chars.next(), Some('.'), "{text}");
                head = Some(core::mem::take(&mut body));
            }
            '\'' => {
                let quoted: String = chars.by_ref().take_while(|char| *char != '\'').collect();
                body.extend_from_slice(quoted.as_bytes());
            }
            digit => {
                let low = chars.next().unwrap_or_else(|| panic!("half a byte: {text}"));
                let digits: String = [digit, low].into_iter().collect();
                body.push(u8::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{digits:?} in {text}")));
            }
        }
    }
    end(&mut head, &mut body);
    done
}

fn framed(mut head: Vec<u8>, body: &[u8]) -> Vec<u8> {
    let mut len = body.len();
    loop {
        let low = (len & 0x7F) as u8;
        len >>= 7;
        head.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            break;
        }
    }
    head.extend_from_slice(body);
    head
}

/// Length and text, as MQTT writes them.
pub(crate) fn text(text: &str) -> String {
    format!("{:04X}'{text}'", text.len())
}

/// The successful answer to an MQTT 5 client under the default settings: Receive Maximum 32, Maximum Packet Size
/// 1 MiB, Topic Alias Maximum 16.
pub(crate) const CONNACK_5: &str = "20 .. 00 00 0B 21 0020 27 00100000 22 0010";

/// The same with a session that was there before.
pub(crate) const CONNACK_5_PRESENT: &str = "20 .. 01 00 0B 21 0020 27 00100000 22 0010";

impl Bed {
    /// The client sends these bytes; everything that follows from them happens.
    pub(crate) fn says(&mut self, client: Client, text: &str) {
        self.send(client, &wire(text));
    }

    /// A new byte stream, and what its client says first.
    pub(crate) fn opens(&mut self, shard: usize, text: &str) -> Client {
        let client = self.open(shard);
        self.says(client, text);
        client
    }

    /// An MQTT 5 client, Clean Start, Keep Alive 0; its CONNACK is checked.
    #[track_caller]
    pub(crate) fn five(&mut self, shard: usize, id: &str) -> Client {
        self.five_with(shard, id, "")
    }

    /// The same with properties: their bytes, without the length in front of them.
    #[track_caller]
    pub(crate) fn five_with(&mut self, shard: usize, id: &str, properties: &str) -> Client {
        let client = self.opens(shard, &connect_5("02", id, properties));
        self.hears(client, CONNACK_5);
        client
    }

    /// The same where the settings make another CONNACK.
    #[track_caller]
    pub(crate) fn five_told(&mut self, shard: usize, id: &str, connack: &str) -> Client {
        let client = self.opens(shard, &connect_5("02", id, ""));
        self.hears(client, connack);
        client
    }

    /// An MQTT 3.1.1 client, Clean Session, Keep Alive 0; its CONNACK is checked.
    #[track_caller]
    pub(crate) fn three(&mut self, shard: usize, id: &str) -> Client {
        let client = self.opens(shard, &connect_311("02", id));
        self.speaks(client, Version::V311);
        self.hears(client, "20 02 00 00");
        client
    }

    /// Subscribes to a filter with these options (QoS, No Local, …), packet identifier 99; the SUBACK is checked.
    #[track_caller]
    pub(crate) fn subscribes(&mut self, client: Client, filter: &str, options: u8) {
        let none = if self.version(client) == Version::V5 { "00" } else { "" };
        self.says(client, &format!("82 .. 0063 {none} {} {options:02X}", text(filter)));
        self.hears(client, &format!("90 .. 0063 {none} {:02X}", options & 3));
    }

    /// Tells the bed how to read what this client is sent.
    pub(crate) fn speaks(&mut self, client: Client, version: Version) {
        self.wires.get_mut(&client).expect("an open stream").version = Some(version);
    }

    /// The client has received exactly these packets since it was last looked at.
    #[track_caller]
    pub(crate) fn hears(&mut self, client: Client, text: &str) {
        let (heard, expected) = (self.take_bytes(client), wire(text));
        assert!(heard[..] == expected[..], "heard    {}\nexpected {}", hex(&heard), hex(&expected));
    }

    /// It has received nothing.
    #[track_caller]
    pub(crate) fn hears_nothing(&mut self, client: Client) {
        self.hears(client, "");
    }

    /// It has received exactly these packets, and its connection is closed.
    #[track_caller]
    pub(crate) fn hears_and_is_closed(&mut self, client: Client, text: &str) {
        self.hears(client, text);
        assert!(self.is_closed(client), "the connection is still open");
    }

    /// Acknowledges every QoS 1 delivery until there are no more.
    pub(crate) fn acknowledge_all(&mut self, client: Client) {
        self.acknowledge_all_into(client, &mut Vec::new());
    }

    /// The same; the payloads of all deliveries, of whatever QoS, are appended to a list.
    pub(crate) fn acknowledge_all_into(&mut self, client: Client, payloads: &mut Vec<Vec<u8>>) {
        let version = self.version(client);
        loop {
            let heard = self.take_bytes(client);
            let (mut rest, mut acks) = (&heard[..], String::new());
            let limits = Limits::default();
            while let Ok(Some(frame)) = quelea_mqtt::peek_frame(rest, Sender::Server, &limits) {
                let packet =
                    quelea_mqtt::decode(&rest[..frame.packet_bytes], version, Sender::Server, &limits);
                if let Packet::Publish(publish) = packet.expect("what we send can be read") {
                    payloads.push(publish.payload.to_vec());
                    if let Some(id) = publish.packet_id {
                        acks += &format!("40 .. {:04X};", id.get());
                    }
                }
                rest = &rest[frame.packet_bytes..];
            }
            if acks.is_empty() {
                return;
            }
            self.says(client, &acks);
        }
    }

    /// The connection is open and answers: PINGREQ, PINGRESP.
    #[track_caller]
    pub(crate) fn is_well(&mut self, client: Client) {
        self.says(client, "C0 00");
        self.hears(client, "D0 00");
    }
}

/// CONNECT of MQTT 5, Keep Alive 0, with these Connect Flags and properties and nothing behind the client identifier.
pub(crate) fn connect_5(flags: &str, id: &str, properties: &str) -> String {
    let bytes = wire(properties).len();
    format!("10 .. 0004'MQTT' 05 {flags} 0000 {bytes:02X} {properties} {}", text(id))
}

/// CONNECT of MQTT 3.1.1, Keep Alive 0, with these Connect Flags and nothing behind the client identifier.
pub(crate) fn connect_311(flags: &str, id: &str) -> String {
    format!("10 .. 0004'MQTT' 04 {flags} 0000 {}", text(id))
}

/// For a failed assertion: pairs of digits, and what is readable as text behind them.
fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(400)];
    let digits: Vec<_> = shown.iter().map(|byte| format!("{byte:02X}")).collect();
    let rest = if shown.len() < bytes.len() { " …" } else { "" };
    format!("{}{rest} {:?}", digits.join(" "), String::from_utf8_lossy(shown))
}

#[test]
fn a_text_is_read_as_it_is_meant() {
    assert_eq!(wire("10 .. 0001'a' FF; C0 00 "), b"\x10\x04\0\x01a\xFF\xC0\0");
    assert_eq!(wire(&format!("30 .. {}", text(&"x".repeat(130))))[..4], [0x30, 0x84, 0x01, 0x00]);
}
