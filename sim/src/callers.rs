//! Callers: who opens a door and never becomes a client. They cost the broker what they cost, for no longer than its
//! deadlines say, and they are told what is wrong where the protocol has words for it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::event::Event;
use crate::layers::{Kind, proxy_header};
use crate::pipe::{Chunk, Door, Pipe, PipeId};
use crate::world::{Act, World};

/// One caller.
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// What is still to be said, each with the microseconds before it. With TLS, inside it.
    says: VecDeque<(u64, Bytes)>,
    /// What the caller does when all is said.
    then: Then,
    /// How the answer must begin, if all is said and the caller listens.
    expects: Option<&'static str>,
    heard: Vec<u8>,
    /// Reads what comes.
    listens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Waits, for whatever it may be.
    Stays,
    Ends,
    Resets,
}

impl World {
    /// The first caller is due.
    pub(crate) fn expect_callers(&mut self) {
        let pause = self.plan.doors.as_ref().and_then(|plan| plan.caller_us.clone());
        if let Some(pause) = pause {
            let at = self.now + self.micros(pause);
            self.events.push(at, Event::Call);
        }
    }

    /// A caller comes, and the next one is due.
    pub(crate) fn call(&mut self) {
        if self.phase != Act::Storm {
            return;
        }
        let kind = Kind::from_index(self.random.usize(0..Kind::COUNT));
        let (caller, with_layers, with_websocket) = match self.random.u8(0..7) {
            0 => (self.silent(), false, false),
            1 => (self.noisy(), false, false),
            2 => (self.begun(), true, true),
            3 => (self.bad_proxy_header(kind), false, false),
            4 | 5 => (self.bad_request(kind), true, false),
            _ => (self.endless(), true, false),
        };
        self.open_call(kind, caller, with_layers, with_websocket);
        self.expect_callers();
    }

    fn open_call(&mut self, kind: Kind, caller: Caller, with_layers: bool, with_websocket: bool) {
        let shard = self.random.usize(0..self.nodes.len());
        let framing = self.plan.doors.as_ref().expect("doors are played").framing;
        let id = PipeId(self.pipes.len());
        let mut pipe = Pipe::new(self.now, None, shard);
        pipe.kind = kind;
        if with_layers && !kind.is_plain() {
            let mut through = self.new_layers(kind, framing);
            if !with_websocket {
                through.layers.forget_websocket();
            }
            pipe.through = Some(Box::new(through));
        }
        let first = caller.says.front().map(|(pause, _)| *pause);
        pipe.caller = Some(Box::new(caller));
        let delay = self.micros(self.plan.wire.delay_us.clone());
        pipe.up.last_arrival = self.now + delay;
        self.pipes.push(pipe);
        self.tell(|| format!("a caller comes to the {kind} of shard {shard} (stream {})", id.0));
        self.events.push(self.now + delay, Event::Opened { pipe: id });
        self.flush_layers(id);
        self.events.push(self.now + self.plan.patience(), Event::CallOverdue { pipe: id });
        let pause = first.unwrap_or(0);
        self.say_later(id, pause);
    }

    fn say_later(&mut self, id: PipeId, pause_us: u64) {
        let pause = std::time::Duration::from_micros(pause_us);
        self.events.push(self.now + pause, Event::Says { pipe: id });
    }

    /// A caller says the next thing.
    pub(crate) fn says(&mut self, id: PipeId) {
        if self.pipes[id.0].client_ended {
            return;
        }
        let caller = self.pipes[id.0].caller.as_mut().expect("it is a caller's");
        let Some((_, bytes)) = caller.says.pop_front() else {
            return match caller.then {
                Then::Stays => {}
                Then::Ends => self.end_up(id),
                Then::Resets => {
                    self.pipes[id.0].client_ended = true;
                    self.push_up(id, Chunk::Reset);
                }
            };
        };
        let next = caller.says.front().map_or(0, |(pause, _)| *pause);
        match &mut self.pipes[id.0].through {
            Some(through) => {
                through.layers.write(&bytes, true);
                self.flush_layers(id);
            }
            None => self.send_up(id, &bytes),
        }
        self.say_later(id, next);
    }

    /// Something comes to a caller.
    pub(crate) fn hand_to_caller(&mut self, id: PipeId, chunk: Chunk) {
        let caller = self.pipes[id.0].caller.as_mut().expect("it is a caller's");
        if !caller.listens {
            return;
        }
        match chunk {
            Chunk::Bytes(bytes) => {
                self.read(id, bytes.len());
                let pipe = &mut self.pipes[id.0];
                let caller = pipe.caller.as_mut().expect("it is a caller's");
                match &mut pipe.through {
                    Some(through) => {
                        // Callers break every rule, and are told so by alerts and closes.
                        let _ = through.layers.handle_bytes(&bytes, &mut caller.heard);
                        self.flush_layers(id);
                    }
                    None => caller.heard.extend_from_slice(&bytes),
                }
            }
            Chunk::EndOfStream => {
                self.judge_answer(id);
                if !self.pipes[id.0].client_ended {
                    self.end_up(id);
                }
            }
            Chunk::Reset => self.pipes[id.0].client_ended = true,
        }
    }

    fn judge_answer(&mut self, id: PipeId) {
        let overdue =
            self.now >= self.pipes[id.0].began + self.plan.settings.connect_timeout || !self.skew.is_zero();
        let caller = self.pipes[id.0].caller.as_ref().expect("it is a caller's");
        let Some(expected) = caller.expects.filter(|_| caller.says.is_empty()) else { return };
        if caller.heard.is_empty() && overdue || caller.heard.starts_with(expected.as_bytes()) {
            return;
        }
        let heard = String::from_utf8_lossy(&caller.heard).into_owned();
        self.oracle
            .accuse(format!("stream {} was to be refused by {expected:?}, and was by {heard:?}", id.0));
    }

    /// Nobody may keep a door who does not say CONNECT.
    pub(crate) fn call_overdue(&mut self, id: PipeId) {
        if self.pipes[id.0].opened && self.pipes[id.0].door != Door::Gone && !self.pipes[id.0].client_ended {
            self.oracle.accuse(format!("a caller still has stream {} behind all deadlines", id.0));
        }
    }
}

// ---- What they say.
impl World {
    fn drawn(&mut self, says: Vec<(u64, Bytes)>, expects: Option<&'static str>) -> Caller {
        let then = match expects {
            Some(_) => Then::Stays,
            None => [Then::Stays, Then::Ends, Then::Resets][self.random.usize(0..3)],
        };
        Caller {
            address: SocketAddr::from(([10, 1, self.random.u8(..), self.random.u8(..)], 40_000)),
            says: says.into(),
            then,
            expects,
            heard: Vec::new(),
            listens: expects.is_some() || self.percent(70),
        }
    }

    fn silent(&mut self) -> Caller {
        let pause = self.random.u64(0..2_000_000);
        let mut caller = self.drawn(vec![(pause, Bytes::new())], None);
        if self.random.u8(0..3) == 0 {
            // Whom doors with a PROXY header do not trust.
            caller.address = SocketAddr::from(([192, 168, 0, 1], 40_000));
        }
        caller
    }

    fn noisy(&mut self) -> Caller {
        let mut bytes = vec![0; self.random.usize(1..4_000)];
        self.random.fill(&mut bytes);
        // Noise that begins as one of the layers does gets further.
        let begin: &[u8] = match self.random.u8(0..5) {
            0 => b"PROXY TCP4 ",
            1 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
            2 => &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],
            3 => b"GET /mqtt HTTP/1.1\r\n",
            _ => b"",
        };
        bytes.splice(0..0, begin.iter().copied());
        self.drawn(vec![(0, bytes.into())], None)
    }

    /// Begins in order and goes no further: the layers' handshakes, and the first bytes of a CONNECT.
    fn begun(&mut self) -> Caller {
        let connect = &b"\x10\x10\0\x04MQTT\x05\x02"[..self.random.usize(0..10)];
        self.drawn(vec![(1_000, Bytes::copy_from_slice(connect))], None)
    }

    fn bad_proxy_header(&mut self, kind: Kind) -> Caller {
        let good = proxy_header(SocketAddr::from(([203, 0, 113, 9], 9)), true, 0);
        let bad: Vec<u8> = match self.random.u8(0..6) {
            0 => b"PROXY TCP4 203.0.113.9 192.0.2.1 123456 8883\r\n".to_vec(),
            1 => b"PROXY TCP6 203.0.113.9 192.0.2.1 1 8883\r\n".to_vec(),
            2 => [b"PROXY TCP4 ".as_slice(), &[b' '; 120]].concat(),
            3 => [&good[..13], &[0xFF], &good[14..]].concat(),
            4 => [&good[..14], &[0xFF, 0xFF], &good[16..]].concat(),
            _ => good[..self.random.usize(1..good.len())].to_vec(),
        };
        let mut caller = self.drawn(vec![(0, bad.into())], None);
        caller.listens |= kind.has_proxy();
        caller
    }

    fn bad_request(&mut self, kind: Kind) -> Caller {
        let (request, status) = BAD_REQUESTS[self.random.usize(0..BAD_REQUESTS.len())];
        let endless = status == "HTTP/1.1 431";
        let request = if endless { [request.as_bytes(), &[b'x'; 9_000]].concat() } else { request.into() };
        // In pieces, each with its pause.
        let mut rest = Bytes::from(request);
        let mut says = Vec::new();
        while !rest.is_empty() {
            let most = if self.random.bool() { rest.len() } else { rest.len().min(3_000) };
            says.push((self.random.u64(0..20_000), rest.split_to(self.random.usize(1..=most))));
        }
        self.drawn(says, kind.has_websocket().then_some(status))
    }

    /// Always has a little more to say, and never comes to an end of it.
    fn endless(&mut self) -> Caller {
        let mut says = vec![(0, Bytes::from_static(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n"))];
        says.extend((0..200).map(|_| (100_000, Bytes::from_static(b"X"))));
        let mut caller = self.drawn(says, None);
        caller.then = Then::Stays;
        caller
    }
}

/// What is no request for this WebSocket, and how the answer begins.
const BAD_REQUESTS: [(&str, &str); 9] = [
    (
        "GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        "HTTP/1.1 404",
    ),
    ("POST /mqtt HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 405"),
    ("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400"),
    (
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        "HTTP/1.1 426",
    ),
    (
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: amqp\r\n\r\n",
        "HTTP/1.1 400",
    ),
    (
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        "HTTP/1.1 400",
    ),
    ("\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01x\r\n\r\n", "HTTP/1.1 400"),
    ("GET /mqtt HTTP/3.7\r\n\r\n", "HTTP/1.1 400"),
    ("GET /mqtt HTTP/1.1\r\nHost: x\r\nX-Filling: ", "HTTP/1.1 431"),
];
