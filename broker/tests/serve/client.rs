//! A blocking MQTT 5 client over any byte stream, on the broker's own codec: what the codec gets wrong both ways is
//! found by the clients of `tests/interop`, written by others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::{Buf, BytesMut};
use quelea_mqtt::{
    Ack, AckKind, Connect, Disconnect, Limits, Packet, PacketId, Publish, QoS, ReasonCode,
    RequestedSubscription, Sender, Subscribe, SubscribeFilter, SubscriptionOptions, TopicName, Version, Will,
    decode, peek_frame,
};

use crate::PATIENCE;

pub(crate) type TcpClient = Client<TcpStream>;

/// A connected client.
pub(crate) struct Client<S> {
    stream: S,
    input: BytesMut,
    id: PacketId,
}

/// A received PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

pub(crate) fn message(topic: &str, payload: &[u8], qos: QoS) -> Message {
    Message { topic: topic.to_owned(), payload: payload.to_owned(), qos, retain: false }
}

fn topic(name: &str) -> TopicName<'_> {
    TopicName::new(name, 128).unwrap()
}

impl TcpClient {
    pub(crate) fn tcp(address: SocketAddr, name: &str) -> Self {
        Self::introduce(dial(address), Connect::new(Version::V5, name))
    }

    pub(crate) fn tcp_with_will(address: SocketAddr, name: &str, about: &str, last_words: &[u8]) -> Self {
        let mut connect = Connect::new(Version::V5, name);
        connect.will = Some(Will::new(topic(about), last_words, QoS::AtLeastOnce, false));
        Self::introduce(dial(address), connect)
    }
}

/// A TCP connection whose reads are bounded in time.
fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl<S: Read + Write> Client<S> {
    /// CONNECT and CONNACK.
    pub(crate) fn introduce(stream: S, connect: Connect<'_>) -> Self {
        let mut client = Self { stream, input: BytesMut::new(), id: PacketId::MIN };
        client.send(&Packet::Connect(connect));
        let reason = client.expect("CONNACK", |packet| match packet {
            Packet::ConnAck(ack) => Some(ack.reason),
            _ => None,
        });
        assert_eq!(reason, ReasonCode::SUCCESS);
        client
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        let filter = SubscribeFilter::parse(filter, 128).unwrap();
        let wanted = [RequestedSubscription::new(filter, SubscriptionOptions::with_qos(qos))];
        self.send(&Packet::Subscribe(Subscribe::new(self.id, &wanted)));
        let reasons = self.expect("SUBACK", |packet| match packet {
            Packet::SubAck(ack) => Some(ack.reasons.to_vec()),
            _ => None,
        });
        assert_eq!(reasons, [qos.as_u8()]);
    }

    /// Publishes and waits until the broker has accepted it.
    pub(crate) fn publish(&mut self, message: &Message) {
        let mut publish = Publish::new(topic(&message.topic), &message.payload);
        (publish.qos, publish.retain) = (message.qos, message.retain);
        publish.packet_id = (message.qos > QoS::AtMostOnce).then_some(self.id);
        self.send(&Packet::Publish(publish));
        match message.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.expect_ack(AckKind::PubAck, self.id),
            QoS::ExactlyOnce => {
                self.expect_ack(AckKind::PubRec, self.id);
                self.send(&Packet::PubRel(Ack::new(self.id, ReasonCode::SUCCESS)));
                self.expect_ack(AckKind::PubComp, self.id);
            }
        }
    }

    fn expect_ack(&mut self, kind: AckKind, id: PacketId) {
        let (acknowledged, reason) = self.expect("an acknowledgement", |packet| match (kind, packet) {
            (AckKind::PubAck, Packet::PubAck(ack))
            | (AckKind::PubRec, Packet::PubRec(ack))
            | (AckKind::PubRel, Packet::PubRel(ack))
            | (AckKind::PubComp, Packet::PubComp(ack)) => Some((ack.packet_id, ack.reason)),
            _ => None,
        });
        assert_eq!(acknowledged, id);
        assert!(!reason.is_error(), "{reason:?}");
    }

    /// Receives the next message and acknowledges it to the end.
    pub(crate) fn message(&mut self) -> Message {
        let (message, id) = self.expect("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => {
                let topic = publish.topic.expect("no alias was allowed").as_str().to_owned();
                let payload = publish.payload.to_owned();
                let message = Message { topic, payload, qos: publish.qos, retain: publish.retain };
                Some((message, publish.packet_id))
            }
            _ => None,
        });
        let Some(id) = id else { return message };
        let ack = Ack::new(id, ReasonCode::SUCCESS);
        if message.qos == QoS::AtLeastOnce {
            self.send(&Packet::PubAck(ack));
        } else {
            self.send(&Packet::PubRec(ack));
            self.expect_ack(AckKind::PubRel, id);
            self.send(&Packet::PubComp(ack));
        }
        message
    }

    /// Receives DISCONNECT, then the end of the stream.
    pub(crate) fn dismissed(&mut self) -> ReasonCode {
        let reason = self.expect("DISCONNECT", |packet| match packet {
            Packet::Disconnect(disconnect) => Some(disconnect.reason),
            _ => None,
        });
        assert_eq!(self.stream.read(&mut [0; 1]).unwrap(), 0, "nothing follows a DISCONNECT");
        reason
    }

    /// Leaves in order, and waits until the broker has ended its side.
    pub(crate) fn disconnect(mut self) {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
    }

    pub(crate) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = BytesMut::new();
        packet.encode(Version::V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Reads one packet, which must be what `wanted` takes.
    fn expect<T>(&mut self, name: &str, wanted: impl FnOnce(&Packet<'_>) -> Option<T>) -> T {
        let limits = Limits::default();
        let length = loop {
            match peek_frame(&self.input, Sender::Server, &limits).unwrap() {
                Some(frame) if frame.packet_bytes <= self.input.len() => break frame.packet_bytes,
                _ => {
                    let mut some = [0; 4096];
                    let count = self.stream.read(&mut some).unwrap_or_else(|e| panic!("no {name}: {e}"));
                    assert!(count > 0, "the stream has ended before {name}");
                    self.input.extend_from_slice(&some[..count]);
                }
            }
        };
        let packet = decode(&self.input[..length], Version::V5, Sender::Server, &limits).unwrap();
        let taken = wanted(&packet).unwrap_or_else(|| panic!("expected {name}, got {packet:?}"));
        self.input.advance(length);
        taken
    }
}
