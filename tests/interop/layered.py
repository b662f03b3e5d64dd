"""TLS and WebSocket as layers under the suite's own client, and a layer that sends one byte at a time.

    OwnClient(WebSocketStream(TlsStream(BytewiseStream(TcpStream(address)))))

Frames are written here byte by byte; TLS is OpenSSL's, over memory, so that the bytes on the wire can be cut anywhere.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import ssl
import struct
import threading
from typing import Any

from client import PATIENCE_S, NotHeard
from own_client import Stream

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LAST = 0x80


class Layer:
    """A stream on a stream."""

    def __init__(self, inner: Stream):
        self.inner = inner
        self.on_bytes: Any = None
        self.on_end: Any = None
        inner.on_bytes = self._received
        inner.on_end = self._ended

    def start(self) -> None:
        self.inner.start()

    def send(self, data: bytes) -> None:
        self.inner.send(data)

    def finish(self) -> None:
        self.inner.finish()

    def abort(self) -> None:
        self.inner.abort()

    def stop_reading(self) -> None:
        self.inner.stop_reading()

    def read_again(self) -> None:
        self.inner.read_again()

    def _received(self, data: bytes) -> None:
        self.on_bytes(data)

    def _ended(self) -> None:
        self.on_end()


class BytewiseStream(Layer):
    """Every byte is a segment of its own: the socket sends at once what it is given."""

    def send(self, data: bytes) -> None:
        for number in range(len(data)):
            self.inner.send(data[number : number + 1])


class TlsStream(Layer):
    """`closed` says whether the broker has ended TLS by close_notify before the stream ended."""

    def __init__(self, inner: Stream, cafile: str, version: ssl.TLSVersion | None = None):
        super().__init__(inner)
        context = ssl.create_default_context(cafile=cafile)
        if version:
            context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._lock = threading.RLock()
        self._open = threading.Event()
        self.failure: ssl.SSLError | None = None
        self.closed = False

    def start(self) -> None:
        self.inner.start()
        with self._lock:
            self._shake_hands()
        if not self._open.wait(PATIENCE_S):
            raise NotHeard("no TLS handshake")
        if self.failure:
            raise self.failure

    def send(self, data: bytes) -> None:
        with self._lock:
            self.tls.write(data)
            self._flush()

    def finish(self) -> None:
        with self._lock, contextlib.suppress(ssl.SSLError, OSError):
            # Its answer is not waited for here.
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
            self._flush()
        self.inner.finish()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self.inner.send(data)

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self.failure = error
        self._flush()
        self._open.set()

    def _received(self, data: bytes) -> None:
        found = []
        with self._lock:
            self._incoming.write(data)
            if not self._open.is_set():
                self._shake_hands()
            while self._open.is_set() and not self.failure:
                try:
                    piece = self.tls.read(65536)
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLZeroReturnError:
                    self.closed = True
                    break
                except ssl.SSLError as error:
                    self.failure = error
                    break
                if not piece:
                    self.closed = True
                    break
                found.append(piece)
            with contextlib.suppress(OSError):
                self._flush()
        for piece in found:
            self.on_bytes(piece)

    def _ended(self) -> None:
        if not self._open.is_set():
            self.failure = self.failure or ssl.SSLError("the stream ended in the handshake")
            self._open.set()
        if self.on_end:
            self.on_end()


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame in its shortest form."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    mask = os.urandom(4)
    # As one large number, the mask is laid over the payload at once.
    pattern = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(length, "big")
    return head + mask + masked


class WebSocketStream(Layer):
    """`closes` holds the codes of the broker's close frames, `pongs` the payloads of its pongs."""

    def __init__(self, inner: Stream, path: str = "/mqtt", headers: tuple[str, ...] = ()):
        super().__init__(inner)
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._request = "\r\n".join(
            [
                f"GET {path} HTTP/1.1",
                "Host: localhost",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {self._key}",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: mqtt",
                *headers,
                "\r\n",
            ]
        )
        self._buffer = b""
        self._answered = threading.Event()
        self.response = ""
        self.closes: list[int] = []
        self.pongs: list[bytes] = []

    def start(self) -> None:
        self.inner.start()
        self.inner.send(self._request.encode())
        if not self._answered.wait(PATIENCE_S):
            raise NotHeard("no answer to the request for a WebSocket")
        digest = hashlib.sha1((self._key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert self.response.startswith("HTTP/1.1 101 "), self.response
        assert f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n" in self.response

    def send(self, data: bytes) -> None:
        self.inner.send(frame(LAST | BINARY, data))

    def finish(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            self.inner.send(frame(LAST | CLOSE, struct.pack("!H", 1000)))
        self.inner.finish()

    def _received(self, data: bytes) -> None:
        self._buffer += data
        if not self._answered.is_set():
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.response, self._buffer = (head + end).decode(), rest
            self._answered.set()
        if not self.response.startswith("HTTP/1.1 101 "):
            return
        while (found := self._take_frame()) is not None:
            opcode, payload = found
            if opcode == BINARY:
                self.on_bytes(payload)
            elif opcode == CLOSE:
                self.closes.append(struct.unpack("!H", payload)[0])
            elif opcode == PONG:
                self.pongs.append(payload)

    def _take_frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        first, length = self._buffer[:2]
        assert first & 0xF0 == LAST and not length & 0x80, "a whole message, not masked"
        at = 2
        if length >= 126:
            size = 2 if length == 126 else 8
            at += size
            if len(self._buffer) < at:
                return None
            length = int.from_bytes(self._buffer[2:at], "big")
        if len(self._buffer) < at + length:
            return None
        payload, self._buffer = self._buffer[at : at + length], self._buffer[at + length :]
        return first & 0x0F, payload

    def _ended(self) -> None:
        self._answered.set()
        if self.on_end:
            self.on_end()
