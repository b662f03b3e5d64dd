//! The task behind a client: the only owner of its core and its transport.
//!
//! ```text
//!   loop:  pump   unread bytes ─▶ core ─▶ events ─▶ routes, replies;   waiting orders ─▶ core ─▶ output ─▶ writing
//!          wake   whatever comes first: bytes, room to write, a timer, an order, room in a stalled queue
//! ```
//! It stops reading while a QoS 1 or 2 message waits for room in its queue, and stops taking orders while the core is full.

mod events;
mod orders;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use quelea_mqtt::{ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::core::{AckToken, Acks, Closed, Core, Text, Token};
use crate::front::backoff::Backoff;
use crate::front::client::{ClientOptions, Control, Goodbye, Granted, Orders, PublishOrder, State};
use crate::front::error::Error;
use crate::front::routes::{Queue, Receiver, Routes};
use crate::front::subscription::Delivery;
use crate::front::transport::{Route, Transport};

/// See the [module](self).
pub(super) struct Driver {
    core: Core,
    route: Route,
    reconnect: Option<Backoff>,
    /// The application acknowledges.
    manual: bool,
    link: Option<Link>,
    orders: Orders,
    acks: mpsc::Sender<AckToken>,
    /// Orders that the core refused for lack of room.
    waiting_publish: Option<PublishOrder>,
    waiting_control: Option<Control>,
    /// Granted subscriptions that the server has lost.
    to_subscribe: VecDeque<u32>,
    /// Filters of subscriptions that were dropped.
    to_unsubscribe: VecDeque<Vec<Text>>,
    replies: BTreeMap<Token, Reply>,
    routes: Routes,
    /// Deliveries that wait for room; nothing is read meanwhile.
    stalled: VecDeque<(Receiver, Delivery)>,
    /// How the connection ended.
    end: Option<Error>,
    /// Who waits for our own end.
    leaving: Option<Option<oneshot::Sender<Result<(), Error>>>>,
    /// What the transport said when it broke.
    broken: Option<Error>,
    state: watch::Sender<State>,
    rng: fastrand::Rng,
}

/// An open transport.
struct Link {
    transport: Transport,
    /// Received, not yet taken by the core.
    unread: BytesMut,
    /// Taken from the core, not yet written.
    writing: Bytes,
}

/// Who waits for a token's event.
enum Reply {
    Publish(oneshot::Sender<Result<ReasonCode, Error>>),
    Subscribe { id: u32, reply: oneshot::Sender<Result<Granted, Error>> },
    Resubscribe { id: u32 },
    Unsubscribe(oneshot::Sender<Result<(), Error>>),
    Forget(Vec<Text>),
}

/// What came first.
enum Woken {
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
    Timer,
    Control(Control),
    Publish(PublishOrder),
    Ack(AckToken),
    /// `None`: nobody holds a handle any more.
    Goodbye(Option<Goodbye>),
    Room,
}

impl Driver {
    pub(super) fn new(
        options: ClientOptions,
        route: Route,
        orders: Orders,
        acks: mpsc::Sender<AckToken>,
        inbox: Option<Queue>,
        state: watch::Sender<State>,
    ) -> Self {
        let mut mqtt = options.mqtt;
        let manual = mqtt.acks == Acks::Manual;
        // Each message is acknowledged when it leaves its queue.
        mqtt.acks = Acks::Manual;
        // A server that sends more than that meets bounded queues and a transport that is not read.
        mqtt.receive_max_strict = false;
        let mut rng = fastrand::Rng::new();
        Self {
            routes: Routes::new(mqtt.bounds.topic_levels_max, inbox),
            core: Core::new(mqtt, rng.u64(..)),
            route,
            reconnect: options.reconnect,
            manual,
            link: None,
            orders,
            acks,
            waiting_publish: None,
            waiting_control: None,
            to_subscribe: VecDeque::new(),
            to_unsubscribe: VecDeque::new(),
            replies: BTreeMap::new(),
            stalled: VecDeque::new(),
            end: None,
            leaving: None,
            broken: None,
            state,
            rng,
        }
    }

    /// Opens the transport and waits for CONNACK.
    pub(super) async fn attach(&mut self) -> Result<(), Error> {
        let limit = self.core.options().connect_timeout;
        let transport = tokio::select! {
            opened = timeout(limit, Transport::open(&self.route)) => {
                opened.map_err(|_| Error::Closed(Closed::ConnectTimeout))??
            }
            goodbye = self.orders.goodbyes.recv() => {
                self.leaving = Some(goodbye.map(|goodbye| goodbye.reply));
                return Err(left());
            }
        };
        self.core.connect(now())?;
        self.link = Some(Link { transport, unread: BytesMut::new(), writing: Bytes::new() });
        loop {
            self.pump();
            if let Some(end) = self.end.take() {
                self.close_link(&end).await;
                return Err(end);
            }
            if self.core.is_connected() {
                self.keep_session();
                return Ok(());
            }
            let woken = self.wake().await;
            self.on_woken(woken);
        }
    }

    /// From the first CONNACK to the end of the client.
    pub(super) async fn run(mut self) {
        loop {
            while self.end.is_none() {
                let woken = self.wake().await;
                self.on_woken(woken);
                self.pump();
            }
            let end = self.end.take().unwrap_or(Error::Closed(Closed::Transport));
            self.close_link(&end).await;
            let reconnected = match self.reconnect {
                Some(backoff) if self.leaving.is_none() && !is_final(&end) => {
                    self.reattach(backoff, end).await
                }
                _ => Err(end),
            };
            if let Err(end) = reconnected {
                self.finish(end);
                return;
            }
        }
    }

    /// Connects again until it works, or never will.
    async fn reattach(&mut self, backoff: Backoff, mut end: Error) -> Result<(), Error> {
        self.state.send_replace(State::Reconnecting);
        for failures in 0.. {
            let mut wait = backoff.wait(failures, &mut self.rng);
            if is_taken_over(&end) {
                // Two clients with one identifier must not throw each other out at full speed.
                wait = wait.max(TAKEN_OVER_WAIT);
            }
            tokio::select! {
                () = sleep(wait) => {}
                goodbye = self.orders.goodbyes.recv() => {
                    self.leaving = Some(goodbye.map(|goodbye| goodbye.reply));
                    return Err(left());
                }
            }
            match self.attach().await {
                Ok(()) => return Ok(()),
                Err(error) if self.leaving.is_some() || is_final(&error) => return Err(error),
                Err(error) => end = error,
            }
        }
        Err(end)
    }

    async fn wake(&mut self) -> Woken {
        let Some(link) = &mut self.link else { return Woken::Goodbye(self.orders.goodbyes.recv().await) };
        let is_connected = self.core.is_connected();
        let timer = self.core.poll_timeout().map(tokio::time::Instant::from_std);
        let reads = self.stalled.is_empty() && link.unread.is_empty();
        if reads {
            link.unread.reserve(READ_BYTES);
        }
        let Transport { reader, writer, .. } = &mut link.transport;
        tokio::select! {
            read = reader.read_buf(&mut link.unread), if reads => Woken::Read(read),
            wrote = writer.write_buf(&mut link.writing), if !link.writing.is_empty() => Woken::Wrote(wrote),
            () = at(timer) => Woken::Timer,
            Some(control) = self.orders.controls.recv(), if is_connected && self.waiting_control.is_none() => {
                Woken::Control(control)
            }
            Some(order) = self.orders.publishes.recv(), if is_connected && self.waiting_publish.is_none() => {
                Woken::Publish(order)
            }
            Some(token) = self.orders.acks.recv() => Woken::Ack(token),
            goodbye = self.orders.goodbyes.recv(), if self.leaving.is_none() => Woken::Goodbye(goodbye),
            () = room(&self.routes, &self.stalled) => Woken::Room,
        }
    }

    fn on_woken(&mut self, woken: Woken) {
        match woken {
            Woken::Read(Ok(0)) => self.core.handle_closed(now()),
            Woken::Read(Ok(_)) => {}
            Woken::Read(Err(error)) | Woken::Wrote(Err(error)) => {
                self.broken = Some(error.into());
                self.core.handle_closed(now());
            }
            Woken::Wrote(Ok(_)) => {}
            Woken::Timer => self.on_timer(),
            Woken::Control(control) => self.on_control(control),
            Woken::Publish(order) => self.on_publish(order),
            Woken::Ack(token) => self.on_ack(token),
            Woken::Goodbye(goodbye) => self.on_goodbye(goodbye),
            Woken::Room => self.deliver_stalled(),
        }
    }

    fn on_timer(&mut self) {
        if !self.stalled.is_empty() {
            // It is we who do not read: that is no sign against the server.
            assert_eq!(self.core.handle_bytes(now(), &[]), 0, "there was nothing to take");
        }
        self.core.handle_timeout(now());
    }

    /// Moves everything that can move.
    fn pump(&mut self) {
        loop {
            let moved = self.pump_input() | self.pump_events() | self.pump_waiting() | self.pump_output();
            if !moved {
                return;
            }
        }
    }

    fn pump_input(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        if link.unread.is_empty() || !self.stalled.is_empty() {
            return false;
        }
        let taken = self.core.handle_bytes(now(), &link.unread);
        link.unread.advance(taken);
        taken > 0
    }

    fn pump_events(&mut self) -> bool {
        let mut moved = false;
        while (self.stalled.is_empty() || self.leaving.is_some())
            && let Some(event) = self.core.poll_event()
        {
            moved = true;
            self.on_event(event);
        }
        moved
    }

    fn pump_output(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        if !link.writing.is_empty() {
            return false;
        }
        match self.core.poll_output() {
            Some(bytes) => {
                link.writing = bytes;
                true
            }
            None => false,
        }
    }

    fn pump_waiting(&mut self) -> bool {
        if !self.core.is_connected() {
            return false;
        }
        let mut moved = false;
        if let Some(order) = self.waiting_publish.take() {
            self.on_publish(order);
            moved |= self.waiting_publish.is_none();
        }
        if let Some(control) = self.waiting_control.take() {
            self.on_control(control);
            moved |= self.waiting_control.is_none();
        }
        while let Some(id) = self.to_subscribe.pop_front() {
            if !self.resubscribe(id) {
                self.to_subscribe.push_front(id);
                break;
            }
            moved = true;
        }
        while let Some(filters) = self.to_unsubscribe.pop_front() {
            match self.core.unsubscribe(now(), &filters) {
                Ok(token) => {
                    self.replies.insert(token, Reply::Forget(filters));
                    moved = true;
                }
                Err(_) => {
                    self.to_unsubscribe.push_front(filters);
                    break;
                }
            }
        }
        moved
    }

    /// After the first CONNACK an MQTT 5 session that the server keeps is resumed, not begun anew. (MQTT 3.x cannot begin a session
    /// that outlives the connection, and end the one before.)
    fn keep_session(&mut self) {
        let options = self.core.options();
        if options.version == Version::V5 && options.session_expiry_s.is_some_and(|seconds| seconds > 0) {
            self.core.set_clean_start(false);
        }
    }

    /// Writes what is left to say, if anybody listens, and closes.
    async fn close_link(&mut self, end: &Error) {
        let Some(mut link) = self.link.take() else { return };
        match end {
            Error::Closed(Closed::ByUs { .. } | Closed::Violation(_)) => {
                let core = &mut self.core;
                let rest = async {
                    link.transport.writer.write_all(&link.writing).await?;
                    while let Some(bytes) = core.poll_output() {
                        link.transport.writer.write_all(&bytes).await?;
                    }
                    Ok::<(), std::io::Error>(())
                };
                // Who does not take it in time does not hear it.
                match timeout(WRITE_MAX, rest).await {
                    Ok(Ok(())) => link.transport.finish().await,
                    Ok(Err(_)) | Err(_) => link.transport.close().await,
                }
            }
            _ => link.transport.close().await,
        }
        self.core.handle_closed(now());
        // Messages among them that find no room wait for it: they count as received.
        while let Some(event) = self.core.poll_event() {
            self.on_event(event);
        }
        self.end = None;
        self.broken = None;
    }

    fn finish(mut self, end: Error) {
        self.drop_stalled();
        let reply = self.leaving.take().flatten();
        // The state first: whoever waits for a reply asks it why there was none.
        self.state.send_replace(State::Closed(end));
        if let Some(reply) = reply {
            answer(reply, Ok(()));
        }
    }
}

/// Whoever asked may have stopped waiting.
fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    let _ = reply.send(with);
}

/// The front's clock: tokio's, so that its tests may stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn at(timer: Option<tokio::time::Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns when the first stalled delivery has room, or nobody to go to.
async fn room(routes: &Routes, stalled: &VecDeque<(Receiver, Delivery)>) {
    let Some((receiver, _)) = stalled.front() else { return std::future::pending().await };
    if let Some(queue) = routes.queue(*receiver) {
        // The place is given back at once and taken again by the only sender there is. An error: nobody reads any more.
        let _ = queue.sender.reserve().await;
    }
}

fn left() -> Error {
    Error::Closed(Closed::ByUs { reason: ReasonCode::NORMAL_DISCONNECTION })
}

fn is_taken_over(end: &Error) -> bool {
    matches!(end, Error::Closed(Closed::ByServer { reason: ReasonCode::SESSION_TAKEN_OVER, .. }))
}

/// Whether another attempt would end in the same way.
fn is_final(end: &Error) -> bool {
    match end {
        Error::Refused { reason, .. } | Error::Closed(Closed::ByServer { reason, .. }) => matches!(
            *reason,
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
                | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
                | ReasonCode::BAD_USER_NAME_OR_PASSWORD
                | ReasonCode::NOT_AUTHORIZED
                | ReasonCode::BANNED
                | ReasonCode::BAD_AUTHENTICATION_METHOD
                | ReasonCode::USE_ANOTHER_SERVER
                | ReasonCode::SERVER_MOVED
        ),
        Error::Url(_) | Error::Tls(_) | Error::Client(_) | Error::Closed(Closed::ByUs { .. }) => true,
        _ => false,
    }
}

/// What is read at once.
const READ_BYTES: usize = 16 << 10;
/// How long the rest of the output may take after our own end.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// How long to stay away from a server that gave our session to somebody else (the Committee Note recommends this).
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(5);
