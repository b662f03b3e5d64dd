"""MQTT over QUIC on aioquic: ALPN `mqtt`, one bidirectional stream, MQTT packets back to back on it.

aioquic's connection does no I/O by itself; this file gives it a UDP socket that a test can change under its feet, and lets
a test see what a library hides: error codes of resets, credit, the end of each direction.

```text
   test thread                        one thread for all connections (asyncio)
   OwnClient ── send/finish ───────►  QuicLink ── QuicConnection ── UDP socket (changed by `rebind`)
       ▲──────── on_bytes/on_end ──── QuicStream
```
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.serialization import Encoding

from client import PATIENCE_S, NotHeard

# RFC 9000 section 20.1 and RFC 9001 section 4.8: TLS alerts arrive as 0x100 + alert; 120 is no_application_protocol.
NO_APPLICATION_PROTOCOL = 0x178

# Reasons on the wire of QUIC are MQTT reasons above this base.
MQTT_REASON_BASE = 0x300

Answer = TypeVar("Answer")


class _Loop:
    """The thread on which all connections live; started with the first of them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, function: Callable[[], Any]) -> Any:
        """Runs `function` on the thread (which may give an awaitable) and returns what it gives."""
        assert threading.current_thread() is not self.thread

        async def run() -> Any:
            answer = function()
            return await answer if asyncio.iscoroutine(answer) else answer

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)


_the_loop: _Loop | None = None


def _loop() -> _Loop:
    global _the_loop
    _the_loop = _the_loop or _Loop()
    return _the_loop


class _Connection(QuicConnection):
    """aioquic's connection that can be told to grant no more credit, as an application that stops reading does."""

    reads = True

    def _write_connection_limits(self, *arguments: Any, **named: Any) -> None:
        if self.reads:
            super()._write_connection_limits(*arguments, **named)

    def _write_stream_limits(self, *arguments: Any, **named: Any) -> None:
        if self.reads:
            super()._write_stream_limits(*arguments, **named)


class QuicStream:
    """One bidirectional stream, with the surface that `OwnClient` wants of a byte stream."""

    def __init__(self, link: QuicLink, stream_id: int):
        self.on_bytes: Callable[[bytes], None] = lambda _data: None
        self.on_end: Callable[[], None] = lambda: None
        self.link = link
        self.id = stream_id
        self.fin = threading.Event()
        self.reset_code: Future[int] = Future()
        self.stop_code: Future[int] = Future()
        self._ended = False

    def start(self) -> None:
        """Nothing: the link's thread calls back as soon as there is something."""

    def send(self, data: bytes) -> None:
        self.link.later(lambda: self.link.quic.send_stream_data(self.id, data))

    def finish(self) -> None:
        self.link.later(lambda: self.link.quic.send_stream_data(self.id, b"", end_stream=True))

    def reset(self, code: int) -> None:
        """RESET_STREAM and STOP_SENDING: both directions of the stream end, the connection lives."""

        def both() -> None:
            self.link.quic.reset_stream(self.id, code)
            self.link.quic.stop_stream(self.id, code)

        self.link.later(both)

    def abort(self) -> None:
        """Ends the whole connection at once, with an error that is no MQTT reason."""
        self.link.close(code=1)

    def stop_reading(self) -> None:
        self.link.later(lambda: setattr(self.link.quic, "reads", False))

    def read_again(self) -> None:
        self.link.later(lambda: setattr(self.link.quic, "reads", True))

    def blocked(self) -> bool:
        """True while the stream waits for the broker to allow one more stream."""
        return self.link.call(lambda: self.link.quic._streams[self.id].is_blocked)

    def on_event(self, event: events.QuicEvent) -> None:
        match event:
            case events.StreamDataReceived():
                if event.data:
                    self.on_bytes(event.data)
                if event.end_stream:
                    self.fin.set()
                    self.end()
            case events.StreamReset():
                self.reset_code.set_result(event.error_code)
                self.end()
            case events.StopSendingReceived():
                if not self.stop_code.done():
                    self.stop_code.set_result(event.error_code)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self.on_end()


class QuicLink(asyncio.DatagramProtocol):
    """One QUIC connection and the socket it uses now."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        alpn: str = "mqtt",
        idle_timeout_s: float = 60.0,
        stream_credit_bytes: int = 1 << 20,
        session_ticket: Any = None,
    ):
        self.address = address
        self.streams: dict[int, QuicStream] = {}
        self.tickets: list[Any] = []
        self.local_ports: list[int] = []
        self.handshake: Future[str] = Future()
        self.terminated: Future[events.ConnectionTerminated] = Future()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._pump_is_due = False
        self._pings = itertools.count(1)
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[alpn],
            idle_timeout=idle_timeout_s,
            max_stream_data=stream_credit_bytes,
            server_name="localhost",
            session_ticket=session_ticket,
            # The development certificate signs itself; `fingerprint` lets a test compare it.
            verify_mode=ssl.CERT_NONE,
        )
        self.quic = _Connection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self.call(self._open)

    # --- From the test's thread -----------------------------------------------------------------------------------------

    def wait_for_handshake(self) -> str:
        """The application protocol that was agreed on; a refusal is a `ConnectionError`."""
        return self.handshake.result(PATIENCE_S)

    def stream(self) -> QuicStream:
        """The next bidirectional stream. The broker hears of it when something is sent on it."""

        def make() -> QuicStream:
            stream = QuicStream(self, self.quic.get_next_available_stream_id())
            # The id counts as taken only once aioquic has the stream; sending nothing makes it.
            self.quic.send_stream_data(stream.id, b"")
            self.streams[stream.id] = stream
            return stream

        return self.call(make)

    def rebind(self, *, new_connection_id: bool) -> int:
        """Goes on from another UDP port and returns it. What was on its way to the old one is lost.

        With the same connection ID it looks like a NAT that forgot us, with a new one like a client that moves by itself.
        """

        async def move() -> int:
            old = self._transport
            await self._bind()
            old.close()
            if new_connection_id:
                self.quic.change_connection_id()
            # Somebody must speak first, so that the broker learns the new address.
            self.quic.send_ping(next(self._pings))
            self._pump()
            return self.local_ports[-1]

        return self.call(move)

    def close(self, code: int = 0) -> None:
        self.later(lambda: self.quic.close(error_code=code))

    def closed(self, timeout_s: float = PATIENCE_S) -> events.ConnectionTerminated:
        try:
            return self.terminated.result(timeout_s)
        except TimeoutError:
            raise NotHeard(f"the broker kept the QUIC connection for {timeout_s} s") from None

    def fingerprint(self) -> str:
        """SHA-256 of the broker's certificate, in hex without separators."""
        certificate = self.quic.tls._peer_certificate
        return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

    def bidi_credit(self) -> int:
        """How many bidirectional streams the broker allows so far, counted from the beginning."""
        return self.call(lambda: self.quic._remote_max_streams_bidi)

    def call(self, function: Callable[[], Answer]) -> Answer:
        return _loop().call(function)

    def later(self, function: Callable[[], Any]) -> None:
        """Runs `function` on the connection's thread and sends what comes of it. Never waits, so callbacks may use it."""

        def run() -> None:
            # After the end aioquic refuses new data with an assertion; the sender learns of the end by its own event.
            if not self.terminated.done():
                function()
                self._pump_soon()

        _loop().loop.call_soon_threadsafe(run)

    # --- On the connection's thread ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._bind()
        self.quic.connect(self.address, now=self._now())
        self._pump()

    async def _bind(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        self.local_ports.append(sock.getsockname()[1])
        self._transport, _ = await _loop().loop.create_datagram_endpoint(lambda: self, sock=sock)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.quic.receive_datagram(data, address, now=self._now())
        self._take_events()
        self._pump_soon()

    def _on_timer(self) -> None:
        self._timer = None
        self.quic.handle_timer(now=self._now())
        self._take_events()
        self._pump()

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            match event:
                case events.HandshakeCompleted():
                    self.handshake.set_result(event.alpn_protocol)
                case events.ConnectionTerminated():
                    self._on_terminated(event)
                case events.StreamDataReceived() | events.StreamReset() | events.StopSendingReceived():
                    # A stream of the broker's making has no owner; a test sees it in `streams`.
                    stream = self.streams.setdefault(event.stream_id, QuicStream(self, event.stream_id))
                    stream.on_event(event)

    def _on_terminated(self, event: events.ConnectionTerminated) -> None:
        if not self.handshake.done():
            self.handshake.set_exception(QuicRefused(event.error_code, event.reason_phrase))
        self.terminated.set_result(event)
        for stream in self.streams.values():
            stream.end()
        self._transport.close()

    def _pump_soon(self) -> None:
        """Sends once for all that the thread does in this turn, so that small packets share a datagram."""
        if not self._pump_is_due:
            self._pump_is_due = True
            _loop().loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_is_due = False
        for data, address in self.quic.datagrams_to_send(now=self._now()):
            if not self._transport.is_closing():
                self._transport.sendto(data, address)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        deadline = self.quic.get_timer()
        if deadline is not None:
            self._timer = _loop().loop.call_at(deadline, self._on_timer)

    def _now(self) -> float:
        return _loop().loop.time()


class QuicRefused(ConnectionError):
    """The handshake failed; `code` is QUIC's, for example `NO_APPLICATION_PROTOCOL`."""

    def __init__(self, code: int, reason: str):
        super().__init__(f"QUIC error {code:#x} {reason}")
        self.code = code


def connected_stream(address: tuple[str, int], **options: Any) -> QuicStream:
    """The first stream of a new connection, after its handshake."""
    link = QuicLink(address, **options)
    link.wait_for_handshake()
    return link.stream()


class SilentInitial:
    """A client that sends its first flight and never answers: the broker is left with half a handshake."""

    def __init__(self, address: tuple[str, int]):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["mqtt"], server_name="localhost")
        quic = QuicConnection(configuration=configuration)
        quic.connect(address, now=0.0)
        for data, _ in quic.datagrams_to_send(now=0.0):
            self._socket.sendto(data, address)

    def close(self) -> None:
        self._socket.close()
