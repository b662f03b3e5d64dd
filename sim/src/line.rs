//! A QUIC connection from the client's side: the endpoint of a client's process, its address, and what waits for room.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quelea_client::quic::{ConnId, Endpoint};

use crate::oracle::PubId;

/// One QUIC connection of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(pub(crate) usize);

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// A farewell that the broker may have heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parting {
    pub(crate) will: PubId,
    /// How often the broker had ended connections for reasons of its own when this one began: an end that the client had
    /// not heard of when it left may be among those that followed.
    pub(crate) ends_by_broker: u64,
}

/// One QUIC connection, or a stranger's attempt at one.
pub(crate) struct Line {
    /// Whose it is; nobody's for a stranger.
    pub(crate) actor: Option<usize>,
    /// Gone with its process, or when it has nothing more to say.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) conn: ConnId,
    pub(crate) address: SocketAddr,
    /// The handshake is complete.
    pub(crate) connected: bool,
    /// What the client core has written and the windows have not taken.
    pub(crate) unsent: BytesMut,
    /// There is something to read for a client that does not.
    pub(crate) readable: bool,
    /// Read, and not taken by a client core whose own words are not taken.
    pub(crate) unheard: Vec<u8>,
    /// The client is done with it; what still comes is read by nobody.
    pub(crate) leaving: bool,
    /// The client has reset its half.
    pub(crate) reset: bool,
    /// The broker has ended its half in order.
    pub(crate) server_ended: bool,
    /// The broker has acknowledged our end.
    pub(crate) finished: bool,
    /// [`Parting::ends_by_broker`].
    pub(crate) ends_by_broker: u64,
    pub(crate) parting: Option<Parting>,
    /// A turn of the client's process is entered for this time.
    pub(crate) armed: Option<Instant>,
    /// Datagrams that are still listened to, if it falls silent one day.
    pub(crate) patience: Option<u32>,
    /// Its network clears the ECN bits.
    pub(crate) bleached: bool,
    /// Longer datagrams of it vanish.
    pub(crate) path_bytes: usize,
    pub(crate) up: Access,
    pub(crate) down: Access,
}

/// One direction of a client's access to the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Nothing passes before.
    pub(crate) dark_until: Instant,
    /// The last datagram has passed the slow part.
    pub(crate) free_at: Instant,
}

impl Line {
    pub(crate) fn new(now: Instant, actor: Option<usize>, endpoint: Endpoint, conn: ConnId) -> Self {
        let access = Access { dark_until: now, free_at: now };
        Self {
            actor,
            endpoint: Some(endpoint),
            conn,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            connected: false,
            unsent: BytesMut::new(),
            readable: false,
            unheard: Vec::new(),
            leaving: false,
            reset: false,
            server_ended: false,
            finished: false,
            ends_by_broker: 0,
            parting: None,
            armed: None,
            patience: None,
            bleached: false,
            path_bytes: 0,
            up: access,
            down: access,
        }
    }

    pub(crate) fn access(&mut self, way: Way) -> &mut Access {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}
