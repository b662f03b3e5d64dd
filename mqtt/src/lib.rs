//! The language of MQTT 3.1, 3.1.1 and 5.0: packets, properties, topics, reasons.
//!
//! This crate is the first and the last thing on the road of a packet: bytes that a connection received become a
//! borrowed [`Packet`] here, and what the sessions answer becomes bytes here again. It does no I/O, reads no clock,
//! keeps no state between packets and allocates nothing while it decodes.
//!
//! ```text
//!            peek_frame                 decode                        PublishImage::from_publish
//!   bytes ──────────────▶ one packet ───────────▶ Packet<'a> (borrows) ───────────▶ one allocation
//!                                                                                        │ clone = a count
//!   bytes ◀───────────────────────────────────────────────────────────────── encode_head + payload()
//!                                                                          (once per receiver, payload by reference)
//! ```
//!
//! Invariants, held for every input:
//!
//! * Nothing panics, nothing is read past the packet, and a limit of [`Limits`] is checked before anything grows.
//! * What [`decode`] accepts is legal in the version asked for; every refusal is a [`DecodeError`] that names the
//!   packet, the field, what was expected and the reason code for the peer.
//! * Text handed out is well-formed UTF-8 without U+0000; a [`TopicName`] or [`TopicFilter`] is valid by construction.
//!
//! ```
//! use quelea_mqtt::{Limits, Packet, Sender, Version, decode, peek_frame};
//!
//! let limits = Limits::default();
//! let received = [0x30, 0x05, 0x00, 0x01, b't', b'h', b'i', 0xC0]; // a PUBLISH and the start of a PINGREQ
//! let frame = peek_frame(&received, Sender::Client, &limits)?.expect("the first packet is whole enough to measure");
//! assert_eq!(frame.packet_bytes, 7);
//! let packet = decode(&received[..frame.packet_bytes], Version::V311, Sender::Client, &limits)?;
//! let Packet::Publish(publish) = packet else { panic!("a PUBLISH was expected") };
//! assert_eq!(publish.topic.map(|topic| topic.as_str()), Some("t"));
//! assert_eq!(publish.payload, b"hi");
//! # Ok::<(), quelea_mqtt::DecodeError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod frame;
mod image;
mod packet;
mod property;
mod reader;
mod reason;
mod topic;
mod version;
mod writer;

pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use frame::{Frame, Limits, PACKET_BYTES_MAX, PacketType, Sender, connect_answer_version, peek_frame};
pub use image::{AliasUse, Delivery, PublishImage};
pub use packet::ack::{Ack, AckKind};
pub use packet::auth::Auth;
pub use packet::connack::{ConnAck, ConnAckProperties};
pub use packet::connect::{Connect, Will};
pub use packet::disconnect::Disconnect;
pub use packet::publish::{Publish, PublishProperties};
pub use packet::suback::{SubAck, SubAckKind};
pub use packet::subscribe::{RequestedSubscription, RetainHandling, Subscribe, SubscriptionOptions};
pub use packet::unsubscribe::Unsubscribe;
pub use packet::{Packet, decode, encode_ping_req, encode_ping_resp};
pub use property::{SUBSCRIPTION_ID_MAX, SubscriptionIds, UserProperties};
pub use reason::ReasonCode;
pub use topic::{SubscribeFilter, TopicError, TopicFilter, TopicName};
pub use version::{PacketId, QoS, Version};
