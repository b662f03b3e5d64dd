//! The handle that an application holds, and the orders that it sends to the task behind it.

use std::sync::Arc;

use quelea_mqtt::{QoS, ReasonCode};
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot, watch};

use super::backoff::Backoff;
use super::driver::Driver;
use super::error::Error;
use super::routes::{Queue, QueueBounds};
use super::subscription::{Owner, Subscription};
use super::transport::Route;
use super::url::Target;
use crate::core::{AckToken, Closed, Farewell, Options, Publish, Refusal, Server, Subscribe, Text};
use crate::trust::Trust;

/// Options of the front around those of MQTT.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What is said in MQTT. Extended authentication needs the [core](crate::core).
    pub mqtt: Options,
    /// Which server certificate is believed (`quic://`).
    pub trust: Trust,
    /// The name that the server's certificate must have, if it is not the host of the URL.
    pub server_name: Option<String>,
    /// Connect again when the connection is lost, and subscribe again if the session is lost too.
    pub reconnect: Option<Backoff>,
    /// Messages that wait in one [`Subscription`], beyond the QoS 1 and 2 messages of one Receive Maximum.
    pub queue_messages_max: usize,
}

impl From<Options> for ClientOptions {
    fn from(mqtt: Options) -> Self {
        Self { mqtt, trust: Trust::System, server_name: None, reconnect: None, queue_messages_max: 1024 }
    }
}

/// How a client stands with its server.
#[derive(Clone, Debug)]
pub enum State {
    /// Connected.
    Connected {
        /// The server still had the session.
        session_present: bool,
        /// What the server allows.
        server: Arc<Server>,
    },
    /// The connection was lost; another attempt follows.
    Reconnecting,
    /// It is over.
    Closed(Error),
}

/// A connected client. Clones are handles to the same connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) controls: mpsc::Sender<Control>,
    publishes: mpsc::Sender<PublishOrder>,
    goodbyes: mpsc::Sender<Goodbye>,
    acks: mpsc::Sender<AckToken>,
    state: watch::Receiver<State>,
    queue_bounds: QueueBounds,
}

/// A message to publish, and who waits for its end.
#[derive(Debug)]
pub(super) struct PublishOrder {
    pub(super) publish: Publish,
    pub(super) reply: oneshot::Sender<Result<ReasonCode, Error>>,
}

/// Everything else that is sent to the server.
#[derive(Debug)]
pub(super) enum Control {
    Subscribe {
        subscribe: Subscribe,
        queue: Queue,
        reply: oneshot::Sender<Result<Granted, Error>>,
    },
    Unsubscribe {
        id: u32,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// The subscription was dropped.
    Forget {
        id: u32,
    },
}

/// A subscription as the server granted it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) id: u32,
    pub(super) reasons: SmallVec<[ReasonCode; 8]>,
}

/// A wish to leave.
#[derive(Debug)]
pub(super) struct Goodbye {
    pub(super) farewell: Farewell,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// The receiving ends.
pub(super) struct Orders {
    pub(super) controls: mpsc::Receiver<Control>,
    pub(super) publishes: mpsc::Receiver<PublishOrder>,
    pub(super) goodbyes: mpsc::Receiver<Goodbye>,
    pub(super) acks: mpsc::Receiver<AckToken>,
}

impl Client {
    /// Connects to `mqtt://host[:1883]` (TCP) or `quic://host[:14567]` (QUIC, TLS 1.3) and waits for CONNACK.
    ///
    /// Messages of an earlier session that no subscription of this client matches are acknowledged and dropped; see
    /// [`connect_with_inbox`](Self::connect_with_inbox). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the URL, the way to the server, its certificate, or what the server said. This first attempt is never
    /// repeated.
    pub async fn connect(url: &str, options: impl Into<ClientOptions>) -> Result<Self, Error> {
        let options = options.into();
        Self::start(url, options, None).await
    }

    /// As [`connect`](Self::connect), with a queue for all messages that no [`Subscription`] matches: those of a persistent
    /// session arrive before anybody can subscribe.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with_inbox(
        url: &str,
        options: impl Into<ClientOptions>,
    ) -> Result<(Self, Subscription), Error> {
        let options = options.into();
        let (queue, receiver) = Queue::new(queue_bounds(&options));
        let inbox = Subscription {
            queue: receiver,
            dropped: Arc::clone(&queue.dropped),
            filters: Vec::new(),
            reasons: SmallVec::new(),
            owner: None,
        };
        Ok((Self::start(url, options, Some(queue)).await?, inbox))
    }

    async fn start(url: &str, options: ClientOptions, inbox: Option<Queue>) -> Result<Self, Error> {
        let target = Target::parse(url)?;
        if options.mqtt.authentication.is_some() {
            return Err(Error::Client(Refusal::NotAllowed(ReasonCode::BAD_AUTHENTICATION_METHOD)));
        }
        let (controls, controls_in) = mpsc::channel(CONTROLS_MAX);
        let (publishes, publishes_in) = mpsc::channel(PUBLISHES_MAX);
        let (goodbyes, goodbyes_in) = mpsc::channel(1);
        let (acks, acks_in) = mpsc::channel(ACKS_MAX);
        let (state_out, state) = watch::channel(State::Reconnecting);
        let orders =
            Orders { controls: controls_in, publishes: publishes_in, goodbyes: goodbyes_in, acks: acks_in };
        let queue_bounds = queue_bounds(&options);
        let client = Self { controls, publishes, goodbyes, acks: acks.clone(), state, queue_bounds };
        let route = Route { target, trust: options.trust.clone(), server_name: options.server_name.clone() };
        let mut driver = Driver::new(options, route, orders, acks, inbox, state_out);
        driver.attach().await?;
        tokio::spawn(driver.run());
        Ok(client)
    }

    /// Publishes a message and waits until it is done: QoS 0 handed to the transport, QoS 1 PUBACK, QoS 2 PUBCOMP. Many may wait
    /// at a time; they are sent in the order of the calls. Once begun it is published even if the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::NotGranted`] if the server did not take it, [`Error::Client`] for a message that cannot be sent.
    pub async fn publish(&self, publish: Publish) -> Result<ReasonCode, Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.publishes.send(PublishOrder { publish, reply }).await;
        sent.map_err(|_| self.closed_error())?;
        answer.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    /// Subscribes to one filter and waits for the answer. `$share/group/filter` is a shared subscription.
    ///
    /// # Errors
    /// [`Error::NotGranted`] if the server refused it, [`Error::AlreadySubscribed`] if this client has this filter already.
    pub async fn subscribe(&self, filter: impl Into<Text>, qos: QoS) -> Result<Subscription, Error> {
        self.subscribe_with(Subscribe::new(filter, qos)).await
    }

    /// Subscribes to several filters, with the options of MQTT 5, into one queue. The subscription identifier is chosen here.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe); [`Error::NotGranted`] only if no filter was granted.
    pub async fn subscribe_with(&self, subscribe: Subscribe) -> Result<Subscription, Error> {
        let filters = subscribe.subscriptions.iter().map(|one| one.filter.clone()).collect();
        let (queue, receiver) = Queue::new(self.queue_bounds);
        let dropped = Arc::clone(&queue.dropped);
        let (reply, answer) = oneshot::channel();
        let sent = self.controls.send(Control::Subscribe { subscribe, queue, reply }).await;
        sent.map_err(|_| self.closed_error())?;
        let granted = answer.await.unwrap_or_else(|_| Err(self.closed_error()))?;
        let owner = Some(Owner { client: self.clone(), id: granted.id });
        Ok(Subscription { queue: receiver, dropped, filters, reasons: granted.reasons, owner })
    }

    /// Acknowledges a message ([`Acks::Manual`](crate::Acks::Manual)).
    ///
    /// # Errors
    /// [`Error::Closed`] if the client is.
    pub async fn ack(&self, token: AckToken) -> Result<(), Error> {
        self.acks.send(token).await.map_err(|_| self.closed_error())
    }

    /// Disconnects normally: the server drops the will. What was published before is written first.
    ///
    /// # Errors
    /// [`Error::Closed`] if the client is closed already.
    pub async fn disconnect(&self) -> Result<(), Error> {
        self.disconnect_with(ReasonCode::NORMAL_DISCONNECTION).await
    }

    /// Disconnects with a reason or a new session expiry.
    ///
    /// # Errors
    /// As [`disconnect`](Self::disconnect); [`Error::Client`] for what a client may not say.
    pub async fn disconnect_with(&self, farewell: impl Into<Farewell>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.goodbyes.send(Goodbye { farewell: farewell.into(), reply }).await;
        sent.map_err(|_| self.closed_error())?;
        answer.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    /// How the client stands with its server, and how that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    pub(super) async fn unsubscribe(&self, id: u32) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let sent = self.controls.send(Control::Unsubscribe { id, reply }).await;
        sent.map_err(|_| self.closed_error())?;
        answer.await.unwrap_or_else(|_| Err(self.closed_error()))
    }

    fn closed_error(&self) -> Error {
        match &*self.state.borrow() {
            State::Closed(error) => error.clone(),
            State::Connected { .. } | State::Reconnecting => Error::Closed(Closed::Transport),
        }
    }
}

fn queue_bounds(options: &ClientOptions) -> QueueBounds {
    let reserved = options.mqtt.bounds.receive_max.get().into();
    QueueBounds { messages_max: options.queue_messages_max, reserved }
}

/// Publications that wait for room in the window.
const PUBLISHES_MAX: usize = 64;
/// Subscriptions and unsubscriptions that wait for their turn.
const CONTROLS_MAX: usize = 16;
/// A place for each packet identifier that the server can use.
const ACKS_MAX: usize = 65_535;
