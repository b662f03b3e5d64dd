"""Checks of the suite's own tools, so that a failure elsewhere is the broker's."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from collections.abc import Iterator

import pytest
from aioquic.asyncio.server import QuicServer
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import mqtt_quic
import wire
from client import wait_until
from mqtt_quic import NO_APPLICATION_PROTOCOL, QuicLink, QuicRefused, connected_stream
from own_client import OwnClient
from wire import V5, V311, Reader, Will

CONNECT_OF_EVERYTHING = bytes.fromhex(
    "10 3d 00 04 4d 51 54 54 05 2e 00 3c"  # fixed header, MQTT, version 5, flags, keep alive
    "0c 11 00 00 00 07 26 00 01 61 00 01 62"  # session expiry 7, user property a=b
    "00 02 69 64"  # client id
    "05 18 00 00 00 03 00 01 74 00 01 78"  # will delay 3, topic t, payload x
)


def test_writer_follows_the_standard() -> None:
    body = wire.connect(
        V5,
        "id",
        keep_alive_s=60,
        will=Will("t", b"x", 1, True, {"will_delay_interval": 3}),
        props={"session_expiry_interval": 7, "user_properties": [("a", "b")]},
    )
    assert body[2:] == CONNECT_OF_EVERYTHING[2:]
    assert body[1] == len(body) - 2
    assert wire.publish(V311, "a/b", b"hi", qos=1, packet_id=10) == bytes.fromhex("32 09 00 03 61 2f 62 00 0a 68 69")
    assert wire.subscribe(V5, 2, [("a", 1)]) == bytes.fromhex("82 07 00 02 00 00 01 61 01")
    assert wire.varint(268_435_455) == b"\xff\xff\xff\x7f"


def test_reader_takes_packets_in_any_pieces() -> None:
    packets = [
        wire.publish(V5, "t", b"x" * 300, qos=2, packet_id=7, props={"user_properties": [("a", "1"), ("a", "2")]}),
        wire.acknowledge(wire.PUBREL, 7),
        wire.disconnect(V5, 0x8E),
    ]
    whole = b"".join(packets)
    for size in (1, 2, 3, 7, len(whole)):
        reader = Reader(V5)
        found = [p for start in range(0, len(whole), size) for p in reader.feed(whole[start : start + size])]
        assert [p.type for p in found] == [wire.PUBLISH, wire.PUBREL, wire.DISCONNECT]
        assert found[0].properties == {"user_properties": [("a", "1"), ("a", "2")]}
        assert (found[0].payload, found[0].qos, found[2].reason) == (b"x" * 300, 2, 0x8E)


@pytest.mark.parametrize(
    "data",
    ["36 03 00 01 74", "32 05 00 01 74 00 00", "20 02 02 00", "d0 01 00", "41 02 00 01", "30 ff ff ff ff 01", "90"],
)
def test_reader_refuses_what_no_broker_may_send(data: str) -> None:
    reader = Reader(V311)
    if data == "90":  # half a packet is no error yet
        assert reader.feed(bytes.fromhex(data)) == []
        return
    with pytest.raises(wire.WireError):
        reader.feed(bytes.fromhex(data))


# --- The QUIC client against an echo of aioquic's own -------------------------------------------------------------------------


class _Echo(QuicConnectionProtocol):
    """Gives every byte back; `reset`, as the last thing on a stream, is answered with error codes."""

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            if event.data == b"reset":
                self._quic.reset_stream(event.stream_id, 0x381)
                self._quic.stop_stream(event.stream_id, 0x382)
            else:
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
            self.transmit()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], str]]:
    """The address of the echo and the fingerprint of its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today)
        .not_valid_after(today + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["mqtt"])
    configuration.certificate, configuration.private_key = certificate, key

    async def serve() -> tuple[asyncio.DatagramTransport, tuple[str, int]]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: QuicServer(configuration=configuration, create_protocol=_Echo), local_addr=("127.0.0.1", 0)
        )
        return transport, transport.get_extra_info("sockname")

    transport, address = mqtt_quic._loop().call(serve)
    yield address, hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    mqtt_quic._loop().call(transport.close)


def test_quic_stream_carries_bytes_both_ways(echo: tuple[tuple[str, int], str]) -> None:
    address, fingerprint = echo
    stream = connected_stream(address)
    received = bytearray()
    stream.on_bytes = received.extend
    sent = bytes(range(256)) * 4096
    stream.send(sent)
    stream.finish()
    assert stream.fin.wait(20)
    assert received == sent
    assert stream.link.fingerprint() == fingerprint
    stream.link.close()
    assert stream.link.closed().error_code == 0


def test_quic_link_goes_on_from_another_port(echo: tuple[tuple[str, int], str]) -> None:
    stream = connected_stream(echo[0])
    received = bytearray()
    stream.on_bytes = received.extend
    for number in range(10):
        stream.send(bytes([number]))
        stream.link.rebind(new_connection_id=bool(number % 2))
        wait_until("the echo", lambda: len(received) == number + 1)
    assert received == bytes(range(10))
    assert len(set(stream.link.local_ports)) == 11
    stream.link.close()


def test_quic_stream_sees_error_codes(echo: tuple[tuple[str, int], str]) -> None:
    stream = connected_stream(echo[0])
    stream.send(b"reset")
    assert stream.reset_code.result(20) == 0x381
    assert stream.stop_code.result(20) == 0x382
    stream.link.close()


def test_quic_handshake_fails_without_a_common_protocol(echo: tuple[tuple[str, int], str]) -> None:
    link = QuicLink(echo[0], alpn="h3")
    with pytest.raises(QuicRefused) as refused:
        link.wait_for_handshake()
    assert refused.value.code == NO_APPLICATION_PROTOCOL


def test_stalled_link_takes_no_more_than_its_credit(echo: tuple[tuple[str, int], str]) -> None:
    stream = connected_stream(echo[0], stream_credit_bytes=4096)
    received = bytearray()
    stream.on_bytes = received.extend
    stream.stop_reading()
    stream.send(b"x" * 100_000)
    wait_until("the credit is used", lambda: len(received) == 4096)
    stream.read_again()
    stream.send(b"y")
    wait_until("all bytes", lambda: len(received) == 100_001)
    stream.link.close()


def test_client_over_quic_reports_the_end_of_its_connection(echo: tuple[tuple[str, int], str]) -> None:
    client = OwnClient(connected_stream(echo[0]), V5, "echoed")
    # The echo gives back a CONNECT, which no broker may send: the client says so and ends.
    with pytest.raises(ConnectionError, match="does not send packet type 1"):
        client.connect()
    assert client.ended().reason is None
