//! The client as a plain state machine: no socket, no clock, no thread. Bytes and `now` go in, bytes and events come out.
//!
//! ```text
//!                     handle_bytes ──▶ Frames ──▶ decode ──▶ on_<packet> ──▶ events  ──▶ poll_event
//!  connect, publish, subscribe, ack ────────────────────────────┴─────────▶ output  ──▶ poll_output
//!
//!   Detached ── connect ──▶ Connecting ── CONNACK ──▶ Connected
//!      ▲                        │ refused, timeout         │ disconnect, DISCONNECT, violation, silence,
//!      └────────────────────────┴──────────────────────────┘ handle_closed
//! ```
//!
//! **The driver's contract.** Change the core once (`connect`, a call, `handle_*`), then drain it: write what [`Core::poll_output`]
//! gives, deal with each [`Core::poll_event`], arm one timer for [`Core::poll_timeout`]. After [`Event::Refused`] or
//! [`Event::Disconnected`] write the rest of the output and close the transport; [`Core::connect`] then begins anew on another
//! one, and the session (unacknowledged publications, identifiers of QoS 2) goes on where it was.
//!
//! Invariants: every queue has its maximum in [`Bounds`]; what the server does wrong ends the connection with a reason and never
//! panics; every [`Token`] gets exactly one event, unless the core is dropped first; equal inputs and seed give equal outputs.

mod calls;
mod event;
mod frames;
mod in_flight;
mod inbound;
mod message;
mod options;
mod received;
mod requests;
mod text;
mod wire;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_mqtt::{Disconnect, Limits, ReasonCode, Version};

pub use self::calls::{AuthStep, Farewell, Subscribe, Subscription};
pub use self::event::{Closed, Detail, Event, Refusal, Server, Violation};
pub use self::message::{AckToken, Message, Properties, Publish, Token};
pub use self::options::{Acks, Authentication, Bounds, Options, Password, SessionLost, Will};
pub use self::text::Text;

use self::frames::Frames;
use self::in_flight::{InFlight, Resend};
use self::inbound::Inbound;
use self::requests::Requests;

/// One MQTT client and its session. See the [module](self) for the order of calls.
///
/// *Inputs* are [`connect`](Self::connect), [`handle_bytes`](Self::handle_bytes), [`handle_closed`](Self::handle_closed) and
/// [`handle_timeout`](Self::handle_timeout); *calls* are what an application wants ([`publish`](Self::publish),
/// [`subscribe`](Self::subscribe), …); *outputs* are the three `poll_` methods, which never decide anything.
pub struct Core {
    options: Options,
    limits: Limits,
    /// The identifier in use: the one of the options, or what the server assigned.
    client_id: Text,
    link: Link,
    server: Server,
    frames: Frames,
    output: BytesMut,
    /// QoS 0 publications in `output`.
    unsent: VecDeque<Token>,
    events: VecDeque<Event>,
    in_flight: InFlight,
    inbound: Inbound,
    requests: Requests,
    tokens: u64,
    counters: Counters,
}

/// What became of the connection.
enum Link {
    Detached,
    Connecting { since: Instant },
    Connected(Pulse),
}

/// The signs of life of a connection.
struct Pulse {
    last_sent: Instant,
    last_received: Instant,
    /// `None`: keep alive is off.
    ping_every: Option<Duration>,
    /// A PINGREQ is not answered since then.
    pong_since: Option<Instant>,
}

impl Pulse {
    fn ping_at(&self) -> Option<Instant> {
        self.ping_every.map(|every| self.last_sent + every)
    }

    /// Whatever the server sends shows that it lives: a PINGRESP may wait behind a large message.
    fn dead_at(&self, pong_timeout: Duration) -> Option<Instant> {
        self.pong_since.map(|since| since.max(self.last_received) + pong_timeout)
    }
}

/// Totals since the core was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub packets_in: u64,
    /// Bytes taken from the transport.
    pub bytes_in: u64,
    /// Packets written to the output.
    pub packets_out: u64,
    /// Bytes handed to the transport.
    pub bytes_out: u64,
    /// QoS 1 and 2 messages that came again and were not handed on again.
    pub duplicates_in: u64,
    /// Acknowledgements for which nothing waited.
    pub strays_in: u64,
    /// Messages beyond our Receive Maximum that were tolerated.
    pub excess_in: u64,
    /// Publications sent again after a reconnect.
    pub resent: u64,
}

impl Core {
    /// A client that is not connected. `seed` seeds its hash maps: the same seed and inputs give the same outputs.
    pub fn new(options: Options, seed: u64) -> Self {
        let limits = Limits {
            packet_bytes_max: options.bounds.packet_bytes_max,
            topic_levels_max: options.bounds.topic_levels_max,
            ..Limits::default()
        };
        Self {
            client_id: options.client_id.clone(),
            server: Server::new(options.keep_alive_s),
            limits,
            link: Link::Detached,
            frames: Frames::default(),
            output: BytesMut::new(),
            unsent: VecDeque::new(),
            events: VecDeque::new(),
            in_flight: InFlight::new(seed),
            inbound: Inbound::new(seed.rotate_left(32)),
            requests: Requests::default(),
            tokens: 0,
            counters: Counters::default(),
            options,
        }
    }

    /// The transport is open: writes CONNECT. What an earlier connection left unwritten is dropped and reported.
    ///
    /// # Errors
    /// [`Refusal::AlreadyConnected`], or what in the options cannot be expressed in the version.
    pub fn connect(&mut self, now: Instant) -> Result<(), Refusal> {
        if !matches!(self.link, Link::Detached) {
            return Err(Refusal::AlreadyConnected);
        }
        self.drop_output();
        let written = wire::encode_connect(&self.options, &self.client_id, &self.limits, &mut self.output);
        if let Err(refusal) = written {
            self.output.clear();
            return Err(refusal);
        }
        self.counters.packets_out += 1;
        self.frames.clear();
        self.inbound.on_new_connection();
        self.server = Server::new(self.options.keep_alive_s);
        self.link = Link::Connecting { since: now };
        Ok(())
    }

    /// The transport ended: end of stream, reset, or an error. Nothing that waits in the output can be written any more.
    pub fn handle_closed(&mut self, now: Instant) {
        self.drop_output();
        if self.is_attached() {
            self.close(now, Closed::Transport, None);
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. Harmless when it has not.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &self.link {
            Link::Detached => {}
            Link::Connecting { since } => {
                if now >= *since + self.options.connect_timeout {
                    self.close(now, Closed::ConnectTimeout, None);
                }
            }
            Link::Connected(pulse) => {
                if pulse.dead_at(self.options.pong_timeout).is_some_and(|at| now >= at) {
                    // Without a DISCONNECT, so that the server publishes the will.
                    self.close(now, Closed::PongTimeout, None);
                } else if pulse.ping_at().is_some_and(|at| now >= at) {
                    self.send_ping(now);
                }
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.link {
            Link::Detached => None,
            Link::Connecting { since } => Some(*since + self.options.connect_timeout),
            Link::Connected(pulse) => {
                [pulse.ping_at(), pulse.dead_at(self.options.pong_timeout)].into_iter().flatten().min()
            }
        }
    }

    /// Everything that waits to be written, joined. Publications of QoS 0 in it are done now.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        if self.output.is_empty() {
            return None;
        }
        let done = |token| Event::PublishDone { token, reason: ReasonCode::SUCCESS };
        self.events.extend(self.unsent.drain(..).map(done));
        self.counters.bytes_out += self.output.len() as u64;
        Some(self.output.split().freeze())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// CONNACK has come and the connection has not ended.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected(_))
    }

    /// There is a connection, or one is being made.
    pub fn is_attached(&self) -> bool {
        !matches!(self.link, Link::Detached)
    }

    /// Room for at least one more QoS 1 or 2 publication of usual size; without it `publish` answers [`Refusal::Full`].
    pub fn has_room(&self) -> bool {
        self.is_connected() && self.has_output_room() && self.has_window(0)
    }

    /// Our publications that are not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes that wait for [`poll_output`](Self::poll_output).
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// What the server of this connection allows.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The options. The client identifier in use may differ: see [`client_id`](Self::client_id).
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The client identifier in use: the one of the options, or what the server assigned.
    pub fn client_id(&self) -> &Text {
        &self.client_id
    }

    /// Whether the next [`connect`](Self::connect) begins a new session; `false` resumes the one that this core holds.
    pub fn set_clean_start(&mut self, clean_start: bool) {
        self.options.clean_start = clean_start;
    }

    /// The credentials of the next [`connect`](Self::connect), for those that expire.
    pub fn set_password(&mut self, password: Option<Password>) {
        self.options.password = password;
    }

    /// Totals since the core was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn has_output_room(&self) -> bool {
        self.output.len() < self.options.bounds.output_bytes_max
            && self.events.len() + self.unsent.len() < self.options.bounds.events_max
    }

    /// Whether the window takes one more publication that weighs `kept_bytes`.
    fn has_window(&self, kept_bytes: usize) -> bool {
        let bounds = &self.options.bounds;
        let messages_max = bounds.in_flight_max.min(self.server.receive_max);
        self.in_flight.len() < usize::from(messages_max.get())
            && !self.in_flight.is_resending()
            && (self.in_flight.len() == 0
                || self.in_flight.kept_bytes() + kept_bytes <= bounds.in_flight_bytes_max)
    }

    fn take_token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// A packet was written to the output.
    fn note_sent(&mut self, now: Instant) {
        self.counters.packets_out += 1;
        if let Link::Connected(pulse) = &mut self.link {
            pulse.last_sent = now;
        }
    }

    fn send_ping(&mut self, now: Instant) {
        quelea_mqtt::encode_ping_req(&mut self.output);
        self.note_sent(now);
        if let Link::Connected(pulse) = &mut self.link {
            pulse.pong_since.get_or_insert(now);
        }
    }

    /// Sends again what an earlier connection left, as far as the server's Receive Maximum and the output have room. Whoever
    /// stops here is called again by the acknowledgement of what was sent.
    fn resend(&mut self, now: Instant) {
        let window = usize::from(self.server.receive_max.get());
        while self.in_flight.is_resending()
            && self.in_flight.sent() < window
            && self.output.len() < self.options.bounds.output_bytes_max
        {
            match self.in_flight.take_resend() {
                None => return,
                Some(Resend::Release(packet_id)) => self.send_pubrel(now, packet_id, ReasonCode::SUCCESS),
                Some(Resend::Publish(packet_id, kept)) => {
                    let how =
                        wire::How { packet_id: Some(packet_id), dup: kept.dup, waited: now - kept.since };
                    match self.encode_publish(&kept.publish, how) {
                        Ok(()) => {
                            self.counters.resent += 1;
                            self.note_sent(now);
                        }
                        // This server takes less than the one before.
                        Err(refusal) => {
                            if let Some(token) = self.in_flight.refuse(packet_id) {
                                self.events
                                    .push_back(Event::PublishDone { token, reason: refusal.reason_code() });
                            }
                        }
                    }
                }
            }
        }
    }

    /// The one way out of a connection: says goodbye if there is something to say, and reports.
    fn close(&mut self, now: Instant, closed: Closed, farewell: Option<&Disconnect<'_>>) {
        if let Some(disconnect) = farewell {
            let written = disconnect.encode(self.options.version, &mut self.output);
            assert!(written.is_ok(), "a DISCONNECT of ours is always expressible");
            self.note_sent(now);
        }
        self.detach();
        self.events.push_back(Event::Disconnected(closed));
    }

    /// The server broke the protocol. MQTT 3.x has no words for it: there the transport is closed, and the will is published.
    fn on_violation(&mut self, now: Instant, violation: Violation) {
        let farewell = Disconnect { reason: violation.reason, ..Disconnect::default() };
        let farewell = (self.options.version == Version::V5).then_some(&farewell);
        self.close(now, Closed::Violation(Box::new(violation)), farewell);
    }

    fn detach(&mut self) {
        self.link = Link::Detached;
        self.frames.clear();
        self.events.extend(self.requests.take_all().map(|token| Event::Lost { token }));
    }

    fn drop_output(&mut self) {
        self.output = BytesMut::new();
        self.events.extend(self.unsent.drain(..).map(|token| Event::Lost { token }));
    }
}
