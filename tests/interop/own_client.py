"""The suite's own MQTT client, over any byte stream: TCP in this file, QUIC in `mqtt_quic`.

It gives what a library hides: acknowledgements held back, packets out of place, reading stopped.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from concurrent.futures import Future, TimeoutError as FutureTimeout
from typing import Any, Protocol

import wire
from client import PATIENCE_S, Client, Connack, End, Message, NotHeard, Refused
from wire import V5, Packet, Reader, Will


class Stream(Protocol):
    """A byte stream to the broker. Its owner sets the two callbacks before `start`; they run on the stream's thread."""

    on_bytes: Any
    on_end: Any

    def start(self) -> None: ...

    def send(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Ends the sending direction."""

    def abort(self) -> None:
        """Ends both directions at once, without saying so in MQTT."""


class TcpStream:
    def __init__(self, address: tuple[str, int], receive_buffer_bytes: int | None = None):
        self.on_bytes: Any = None
        self.on_end: Any = None
        self._socket = socket.socket()
        if receive_buffer_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(address)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._may_read = threading.Event()
        self._may_read.set()
        # A large packet leaves in pieces; an acknowledgement by the reading thread may not land between them.
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, data: bytes) -> None:
        with self._sending:
            self._socket.sendall(data)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Resets the connection: with a linger time of zero the kernel answers with RST instead of FIN."""
        self._may_read.set()
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            # Wakes the reading thread, which would otherwise hold the socket open.
            self._socket.shutdown(socket.SHUT_RD)
        self._socket.close()

    def stop_reading(self) -> None:
        """Leaves what the broker sends in the kernel's buffers, which then fill up to the broker."""
        self._may_read.clear()

    def read_again(self) -> None:
        self._may_read.set()

    def _read(self) -> None:
        try:
            while True:
                self._may_read.wait()
                data = self._socket.recv(65536)
                if not data:
                    break
                self.on_bytes(data)
        except OSError:
            pass
        # As every client does: whoever has read the end ends its own side, or the broker waits for it.
        self.finish()
        self.on_end()


class OwnClient(Client):
    def __init__(self, stream: Stream, version: int, client_id: str):
        super().__init__()
        self.stream = stream
        self.version = version
        self.client_id = client_id
        self.acknowledges = True  # False: `message` leaves QoS 1 and 2 open until `acknowledge`
        self.releases = True  # False: a PUBREC is left without its PUBREL
        self.unanswered: list[Packet] = []
        self.duplicates = 0
        self.wire_error: wire.WireError | None = None
        self.end = threading.Event()
        self._reader = Reader(version)
        self._lock = threading.RLock()
        self._next_id = 0
        self._waiting: dict[tuple[int, int | None], Future[Packet]] = {}
        self._qos2_received: set[int] = set()
        self._disconnect: Packet | None = None
        stream.on_bytes = self._on_bytes
        stream.on_end = self._on_end
        stream.start()

    # --- The common surface ---------------------------------------------------------------------------------------------

    def connect(
        self,
        *,
        clean: bool = True,
        session_expiry_s: int = 0,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Connack:
        props = dict(properties or {})
        if session_expiry_s:
            props["session_expiry_interval"] = session_expiry_s
        answer = self.expect(wire.CONNACK)
        self.stream.send(
            wire.connect(
                self.version, self.client_id, clean=clean, keep_alive_s=keep_alive_s, will=will, props=props
            )
        )
        connack = _result(answer, "CONNACK")
        if connack.reason:
            raise Refused(connack.reason)
        self.client_id = connack.properties.get("assigned_client_identifier", self.client_id)
        return Connack(connack.session_present, connack.reason, connack.properties)

    def subscribe(
        self,
        topic_filter: str,
        qos: int = 0,
        *,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
        identifier: int | None = None,
    ) -> int:
        options = qos | no_local << 2 | retain_as_published << 3 | retain_handling << 4
        props = {"subscription_identifiers": [identifier]} if identifier else None
        packet_id = self._packet_id()
        answer = self.expect(wire.SUBACK, packet_id)
        self.stream.send(wire.subscribe(self.version, packet_id, [(topic_filter, options)], props))
        return _result(answer, "SUBACK").reasons[0]

    def unsubscribe(self, topic_filter: str) -> int:
        packet_id = self._packet_id()
        answer = self.expect(wire.UNSUBACK, packet_id)
        self.stream.send(wire.unsubscribe(self.version, packet_id, [topic_filter]))
        reasons = _result(answer, "UNSUBACK").reasons
        return reasons[0] if reasons else 0

    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        ticket = self.publish_later(topic, payload, qos=qos, retain=retain, properties=properties)
        return _result(ticket, "acknowledgement").reason if ticket else 0

    def disconnect(self) -> None:
        self.stream.send(wire.disconnect(self.version))
        self.stream.finish()
        if not self.end.wait(PATIENCE_S):
            raise NotHeard(f"{self.client_id}: the broker did not end the connection after our DISCONNECT")

    def abort(self) -> None:
        self.stream.abort()

    # --- What only this client can do -----------------------------------------------------------------------------------

    def publish_later(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> Future[Packet] | None:
        """Sends and does not wait: the ticket is done when PUBACK or PUBCOMP (or a refusing PUBREC) is here."""
        packet_id, ticket = None, None
        if qos:
            packet_id = self._packet_id()
            ticket = self.expect(wire.PUBACK if qos == 1 else wire.PUBCOMP, packet_id)
        self.stream.send(
            wire.publish(
                self.version, topic, payload, qos=qos, retain=retain, packet_id=packet_id, props=properties
            )
        )
        return ticket

    def ping(self, timeout_s: float = PATIENCE_S) -> None:
        """PINGREQ to PINGRESP: proves that the connection lives and that the broker has read all we sent before."""
        answer = self.expect(wire.PINGRESP)
        self.stream.send(wire.pingreq())
        _result(answer, "PINGRESP", timeout_s)

    def acknowledge(self, packet: Packet) -> None:
        self.unanswered.remove(packet)
        self.stream.send(wire.acknowledge(wire.PUBACK if packet.qos == 1 else wire.PUBREC, packet.packet_id))

    def exchange(self, data: bytes, type_: int, packet_id: int | None = None) -> Packet:
        """Sends bytes as they are and returns the packet that answers them."""
        answer = self.expect(type_, packet_id)
        self.stream.send(data)
        return _result(answer, f"packet of type {type_}")

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are. The broker may already have closed, which is no concern of the sender's."""
        with contextlib.suppress(OSError):
            self.stream.send(data)

    def expect(self, type_: int, packet_id: int | None = None) -> Future[Packet]:
        """A ticket for the next packet of this type (and id)."""
        ticket: Future[Packet] = Future()
        with self._lock:
            if self.end.is_set():
                ticket.set_exception(ConnectionError(f"{self.client_id}: the connection has ended"))
            else:
                self._waiting[type_, packet_id] = ticket
        return ticket

    # --- Input, on the stream's thread ------------------------------------------------------------------------------------

    def _on_bytes(self, data: bytes) -> None:
        try:
            for packet in self._reader.feed(data):
                self._on_packet(packet)
        except wire.WireError as error:
            self.wire_error = error
            self.stream.abort()

    def _on_packet(self, packet: Packet) -> None:
        match packet.type:
            case wire.PUBLISH:
                self._on_publish(packet)
            case wire.PUBREC:
                self._on_pubrec(packet)
            case wire.PUBREL:
                self._qos2_received.discard(packet.packet_id)
                self._answer(wire.acknowledge(wire.PUBCOMP, packet.packet_id))
            case wire.DISCONNECT:
                self._disconnect = packet
            case _:
                self._resolve((packet.type, packet.packet_id), packet)

    def _on_publish(self, packet: Packet) -> None:
        repeated = packet.qos == 2 and packet.packet_id in self._qos2_received
        if packet.qos == 2:
            self._qos2_received.add(packet.packet_id)
        if repeated:
            self.duplicates += 1
        else:
            self.messages.put(
                Message(packet.topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.properties)
            )
        if packet.qos and self.acknowledges:
            self._answer(wire.acknowledge(wire.PUBACK if packet.qos == 1 else wire.PUBREC, packet.packet_id))
        elif packet.qos:
            self.unanswered.append(packet)

    def _on_pubrec(self, packet: Packet) -> None:
        self._resolve((wire.PUBREC, packet.packet_id), packet)
        if packet.reason >= 0x80:
            self._resolve((wire.PUBCOMP, packet.packet_id), packet)
        elif self.releases:
            self._answer(wire.acknowledge(wire.PUBREL, packet.packet_id))

    def _answer(self, data: bytes) -> None:
        # The stream may have ended while a packet of it was still being read.
        with contextlib.suppress(OSError):
            self.stream.send(data)

    def _on_end(self) -> None:
        with self._lock:
            self.end.set()
            waiting, self._waiting = self._waiting, {}
        why = self.wire_error or self._disconnect or "no DISCONNECT"
        for ticket in waiting.values():
            ticket.set_exception(ConnectionError(f"{self.client_id}: the connection ended: {why}"))
        self.ends.put(End(self._disconnect.reason if self._disconnect else None))

    # --- Waiting ------------------------------------------------------------------------------------------------------------

    def _packet_id(self) -> int:
        with self._lock:
            self._next_id = self._next_id % 65535 + 1
            return self._next_id

    def _resolve(self, key: tuple[int, int | None], packet: Packet) -> None:
        with self._lock:
            ticket = self._waiting.pop(key, None)
        if ticket:
            ticket.set_result(packet)


def _result(ticket: Future[Packet], what: str, timeout_s: float = PATIENCE_S) -> Packet:
    try:
        return ticket.result(timeout_s)
    except FutureTimeout:
        raise NotHeard(f"no {what} in {timeout_s} s") from None


def drain(messages: queue.Queue[Message]) -> list[Message]:
    """All messages that are here now."""
    found = []
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(messages.get_nowait())
    return found
