"""MQTT 3.1.1 and 5.0 control packets as bytes: a writer and an incremental reader.

Small on purpose and independent of the broker's codec: it is written from the standard, so that an error in one is not
repeated in the other. The writer does what it is told, including what the standard forbids; the reader is strict.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

V311 = 4
V5 = 5

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = range(1, 9)
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(9, 16)

# Property identifiers of MQTT 5.0 section 2.2.2.2: number, name, kind.
_PROPERTIES = [
    (0x01, "payload_format_indicator", "u8"),
    (0x02, "message_expiry_interval", "u32"),
    (0x03, "content_type", "text"),
    (0x08, "response_topic", "text"),
    (0x09, "correlation_data", "binary"),
    (0x0B, "subscription_identifiers", "varint*"),
    (0x11, "session_expiry_interval", "u32"),
    (0x12, "assigned_client_identifier", "text"),
    (0x13, "server_keep_alive", "u16"),
    (0x15, "authentication_method", "text"),
    (0x16, "authentication_data", "binary"),
    (0x17, "request_problem_information", "u8"),
    (0x18, "will_delay_interval", "u32"),
    (0x19, "request_response_information", "u8"),
    (0x1A, "response_information", "text"),
    (0x1C, "server_reference", "text"),
    (0x1F, "reason_string", "text"),
    (0x21, "receive_maximum", "u16"),
    (0x22, "topic_alias_maximum", "u16"),
    (0x23, "topic_alias", "u16"),
    (0x24, "maximum_qos", "u8"),
    (0x25, "retain_available", "u8"),
    (0x26, "user_properties", "pair*"),
    (0x27, "maximum_packet_size", "u32"),
    (0x28, "wildcard_subscription_available", "u8"),
    (0x29, "subscription_identifier_available", "u8"),
    (0x2A, "shared_subscription_available", "u8"),
]
_BY_NUMBER = {number: (name, kind) for number, name, kind in _PROPERTIES}
_BY_NAME = {name: (number, kind) for number, name, kind in _PROPERTIES}


class WireError(Exception):
    """The broker sent bytes that the standard does not allow."""


@dataclass
class Packet:
    """One control packet as it was read. Fields that its type does not have keep their defaults."""

    type: int
    flags: int
    packet_id: int | None = None
    reason: int = 0
    reasons: list[int] = field(default_factory=list)
    session_present: bool = False
    topic: str = ""
    payload: bytes = b""
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


# --- Writing ---------------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def binary(value: bytes) -> bytes:
    return struct.pack("!H", len(value)) + value


def text(value: str) -> bytes:
    return binary(value.encode())


def properties(values: dict[str, Any] | None) -> bytes:
    body = b"".join(_property(name, value) for name, value in (values or {}).items())
    return varint(len(body)) + body


def _property(name: str, value: Any) -> bytes:
    number, kind = _BY_NAME[name]
    if kind.endswith("*"):
        return b"".join(bytes([number]) + _value(kind[:-1], one) for one in value)
    return bytes([number]) + _value(kind, value)


def _value(kind: str, value: Any) -> bytes:
    match kind:
        case "u8":
            return bytes([value])
        case "u16":
            return struct.pack("!H", value)
        case "u32":
            return struct.pack("!I", value)
        case "varint":
            return varint(value)
        case "text":
            return text(value)
        case "binary":
            return binary(value)
        case "pair":
            return text(value[0]) + text(value[1])
    raise AssertionError(kind)


def packet(type_: int, flags: int, body: bytes) -> bytes:
    return bytes([type_ << 4 | flags]) + varint(len(body)) + body


@dataclass
class Will:
    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: dict[str, Any] | None = None


def connect(
    version: int,
    client_id: str,
    *,
    clean: bool = True,
    keep_alive_s: int = 0,
    will: Will | None = None,
    props: dict[str, Any] | None = None,
) -> bytes:
    flags = 0x02 if clean else 0
    payload = text(client_id)
    if will:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        if version == V5:
            payload += properties(will.properties)
        payload += text(will.topic) + binary(will.payload)
    body = text("MQTT") + bytes([version, flags]) + struct.pack("!H", keep_alive_s)
    if version == V5:
        body += properties(props)
    return packet(CONNECT, 0, body + payload)


def publish(
    version: int,
    topic: str,
    payload: bytes,
    *,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    packet_id: int | None = None,
    props: dict[str, Any] | None = None,
) -> bytes:
    body = text(topic)
    if qos:
        body += struct.pack("!H", packet_id)
    if version == V5:
        body += properties(props)
    return packet(PUBLISH, (8 if dup else 0) | qos << 1 | retain, body + payload)


def acknowledge(type_: int, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP with reason 0, whose short form is the same in both versions."""
    return packet(type_, 2 if type_ == PUBREL else 0, struct.pack("!H", packet_id))


def subscribe(
    version: int, packet_id: int, filters: list[tuple[str, int]], props: dict[str, Any] | None = None
) -> bytes:
    """`filters` pairs a filter with its options byte (MQTT 5.0 section 3.8.3.1; the QoS alone in 3.1.1)."""
    body = struct.pack("!H", packet_id)
    if version == V5:
        body += properties(props)
    body += b"".join(text(name) + bytes([options]) for name, options in filters)
    return packet(SUBSCRIBE, 2, body)


def unsubscribe(version: int, packet_id: int, filters: list[str]) -> bytes:
    body = struct.pack("!H", packet_id)
    if version == V5:
        body += properties(None)
    return packet(UNSUBSCRIBE, 2, body + b"".join(map(text, filters)))


def pingreq() -> bytes:
    return packet(PINGREQ, 0, b"")


def disconnect(version: int, reason: int = 0, props: dict[str, Any] | None = None) -> bytes:
    if version == V311 or (reason == 0 and not props):
        return packet(DISCONNECT, 0, b"")
    return packet(DISCONNECT, 0, bytes([reason]) + properties(props))


# --- Reading ---------------------------------------------------------------------------------------------------------------


class _Cursor:
    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise WireError("a field runs past the end of its packet")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def left(self) -> int:
        return len(self.data) - self.at

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return struct.unpack("!H", self.take(2))[0]

    def u32(self) -> int:
        return struct.unpack("!I", self.take(4))[0]

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        return self.binary().decode()

    def pair(self) -> tuple[str, str]:
        return (self.text(), self.text())

    def varint(self) -> int:
        value = 0
        for shift in range(0, 28, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise WireError("a variable byte integer of more than four bytes")

    def properties(self) -> dict[str, Any]:
        inner = _Cursor(self.take(self.varint()))
        found: dict[str, Any] = {}
        while inner.left():
            number = inner.varint()
            if number not in _BY_NUMBER:
                raise WireError(f"property {number:#04x} does not exist")
            name, kind = _BY_NUMBER[number]
            value = getattr(inner, kind.rstrip("*"))()
            if kind.endswith("*"):
                found.setdefault(name, []).append(value)
            elif name in found:
                raise WireError(f"property {name} twice")
            else:
                found[name] = value
        return found


class Reader:
    """Turns bytes, in whatever pieces they come, into packets."""

    def __init__(self, version: int):
        self.version = version
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        self._pending += data
        packets = []
        while (length := self._whole_packet()) is not None:
            header_bytes, total = length
            body = bytes(self._pending[header_bytes:total])
            first = self._pending[0]
            del self._pending[:total]
            packets.append(self._read(first >> 4, first & 15, body))
        return packets

    def _whole_packet(self) -> tuple[int, int] | None:
        value = 0
        for index in range(1, 5):
            if index >= len(self._pending):
                return None
            byte = self._pending[index]
            value |= (byte & 0x7F) << 7 * (index - 1)
            if not byte & 0x80:
                total = index + 1 + value
                return (index + 1, total) if len(self._pending) >= total else None
        raise WireError("a remaining length of more than four bytes")

    def _read(self, type_: int, flags: int, body: bytes) -> Packet:
        if type_ != PUBLISH and flags != (2 if type_ == PUBREL else 0):
            raise WireError(f"packet type {type_} with flags {flags:#x}")
        packet_, cursor = Packet(type_, flags), _Cursor(body)
        match type_:
            case 2:
                acknowledge_flags = cursor.u8()
                if acknowledge_flags > 1:
                    raise WireError("reserved CONNACK flags are set")
                packet_.session_present = bool(acknowledge_flags)
                packet_.reason = cursor.u8()
                self._read_properties(packet_, cursor)
            case 3:
                self._read_publish(packet_, cursor)
            case 4 | 5 | 6 | 7:
                packet_.packet_id = cursor.u16()
                self._read_reason(packet_, cursor)
            case 9:
                packet_.packet_id = cursor.u16()
                self._read_properties(packet_, cursor)
                packet_.reasons = list(cursor.rest())
            case 11:
                packet_.packet_id = cursor.u16()
                self._read_properties(packet_, cursor)
                packet_.reasons = list(cursor.rest())
            case 13:
                pass
            case 14 | 15 if self.version == V5:
                self._read_reason(packet_, cursor)
            case _:
                raise WireError(f"a broker does not send packet type {type_}")
        if cursor.left():
            raise WireError(f"packet type {type_} has {cursor.left()} bytes too many")
        return packet_

    def _read_publish(self, packet_: Packet, cursor: _Cursor) -> None:
        if packet_.qos == 3 or (packet_.dup and packet_.qos == 0):
            raise WireError(f"PUBLISH with flags {packet_.flags:#x}")
        packet_.topic = cursor.text()
        if packet_.qos:
            packet_.packet_id = cursor.u16()
            if packet_.packet_id == 0:
                raise WireError("PUBLISH with packet id 0")
        self._read_properties(packet_, cursor)
        packet_.payload = cursor.rest()

    def _read_properties(self, packet_: Packet, cursor: _Cursor) -> None:
        if self.version == V5:
            packet_.properties = cursor.properties()

    def _read_reason(self, packet_: Packet, cursor: _Cursor) -> None:
        if self.version == V5 and cursor.left():
            packet_.reason = cursor.u8()
            if cursor.left():
                packet_.properties = cursor.properties()
