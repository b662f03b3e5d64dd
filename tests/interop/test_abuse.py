"""Clients that harm, by accident or by intent: the broker keeps its memory, the others keep their service, the guilty one
is told why, and everything is counted."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import metrics
import wire
from broker import Broker, Quelea
from client import PATIENCE_S, wait_until
from conftest import AGAINST_MOSQUITTO, running
from mosquitto_clients import Subscriber
from mqtt_quic import connected_stream
from own_client import OwnClient, TcpStream
from wire import V5, V311, Will

MEBIBYTE = 1 << 20

quelea_only = pytest.mark.quelea_only


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """To itself, with the limits of the default configuration (a queue is 1,000 messages and 1 MiB), unless a test
    gives others as the fixture's parameter."""
    with running(tmp_path, getattr(request, "param", None)) as broker:
        yield broker


@dataclass
class MemoryWatch:
    """The broker's resident memory beside what it was when the test began."""

    broker: Broker
    before_bytes: int

    def grew_less_than(self, limit_bytes: int) -> bool:
        return self.broker.rss_peak_bytes() - self.before_bytes < limit_bytes

    def __str__(self) -> str:
        return f"before {self.before_bytes}, peak {self.broker.rss_peak_bytes()}"


@pytest.fixture
def memory(broker: Broker) -> MemoryWatch:
    return MemoryWatch(broker, broker.rss_bytes())


class Bystanders:
    """Two honest clients that speak with each other all the time, from a thread of their own."""

    def __init__(self, broker: Broker):
        self._pair = [OwnClient(TcpStream(broker.tcp), V5, f"bystander-{number}") for number in range(2)]
        for client in self._pair:
            client.connect()
        self._pair[0].subscribe("bystanders", 1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self.slowest_s = 0.0
        self.rounds = 0
        self.failure: BaseException | None = None
        self._thread.start()

    def _speak(self) -> None:
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                payload = f"{self.rounds}".encode()
                self._pair[1].publish("bystanders", payload, qos=1)
                assert self._pair[0].message().payload == payload
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.rounds += 1
        except BaseException as error:
            self.failure = error

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure:
            raise self.failure
        assert self.rounds > 0
        assert self.slowest_s < 5, f"a round took {self.slowest_s} s"
        for client in self._pair:
            client.abort()


@pytest.fixture
def bystanders(broker: Broker) -> Iterator[Bystanders]:
    pair = Bystanders(broker)
    yield pair
    pair.finish()


def stalled_subscriber(broker: Broker, road: str, topic: str, qos: int, client_id: str = "stalled") -> OwnClient:
    """A subscriber that takes nothing more after its SUBACK."""
    if road == "tcp":
        client = OwnClient(TcpStream(broker.tcp, receive_buffer_bytes=131072), V5, client_id)
    else:
        client = OwnClient(connected_stream(broker.quic, stream_credit_bytes=8192), V5, client_id)
    client.connect()
    client.subscribe(topic, qos)
    client.stream.stop_reading()
    return client


ROADS = ["tcp", pytest.param("quic", marks=quelea_only("mosquitto has no QUIC"))]


# --- Slow receivers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ROADS)
def test_flood_of_qos_0_to_a_subscriber_that_stops_reading(
    broker: Broker, memory: MemoryWatch, bystanders: Bystanders, topic: str, road: str
) -> None:
    stalled = stalled_subscriber(broker, road, topic, 0)
    healthy = OwnClient(TcpStream(broker.tcp), V5, "healthy")
    healthy.connect()
    healthy.subscribe(topic)
    publisher = OwnClient(TcpStream(broker.tcp), V5, "publisher")
    publisher.connect()
    # 128 MiB, a hundred times what the stalled subscriber's queue may hold.
    count, payload = 2048, b"x" * 65536
    for number in range(count):
        publisher.publish(topic, payload)
        if number % 8 == 7:
            # Keeps the healthy subscriber's queue short, so that it has no reason to lose any.
            for _ in range(8):
                healthy.message()
    publisher.ping()
    assert memory.grew_less_than(64 * MEBIBYTE), memory
    if isinstance(broker, Quelea):
        dropped = broker.metric(metrics.DROPPED_QOS0_FULL) + broker.metric(metrics.DROPPED_SESSION_END)
        # What fits in the kernel's buffers, in flight and in the queue was not dropped.
        assert dropped > count / 2
    # The stalled client is no worse off than its own slowness made it: it reads again and is served.
    stalled.stream.read_again()
    assert stalled.message().payload == payload
    if isinstance(broker, Quelea):  # mosquitto drops even a PINGRESP while its queue is long
        stalled.ping()


@quelea_only("mosquitto drops for a slow subscriber at once")
@pytest.mark.parametrize("road", ROADS)
def test_flood_of_qos_1_to_a_subscriber_that_stops_reading(
    broker: Quelea, memory: MemoryWatch, bystanders: Bystanders, topic: str, road: str
) -> None:
    stalled = stalled_subscriber(broker, road, topic, 1)
    healthy = OwnClient(TcpStream(broker.tcp), V5, "healthy")
    healthy.connect()
    healthy.subscribe(topic, 1)
    publisher = OwnClient(TcpStream(broker.tcp), V5, "publisher")
    publisher.connect()
    # First its session fills, then the publisher waits for it (10 s), then the subscriber pays.
    count = 4000
    flood(publisher, topic, count, b"x" * 1024, patience_s=40)
    assert broker.metric(metrics.SLOW_DISCONNECTS) == 1
    assert [healthy.message().payload for _ in range(count)] == [b"x" * 1024] * count
    assert memory.grew_less_than(64 * MEBIBYTE), memory
    stalled.stream.read_again()
    if road == "tcp":
        # What was on its way is in front of the DISCONNECT; over QUIC the broker may give up waiting for credit.
        assert stalled.ended().reason == 0x97
    else:
        assert stalled.ended().reason in (0x97, None)


def flood(client: OwnClient, topic: str, count: int, payload: bytes, patience_s: float = PATIENCE_S) -> None:
    """Publishes at QoS 1 with the broker's Receive Maximum of messages in flight, and waits for all acknowledgements."""
    tickets = []
    for _ in range(count):
        if len(tickets) >= 16:
            tickets.pop(0).result(patience_s)
        tickets.append(client.publish_later(topic, payload, qos=1))
    for ticket in tickets:
        ticket.result(patience_s)


def test_two_clients_that_flood_each_other_both_finish(broker: Broker, memory: MemoryWatch, topic: str) -> None:
    pair = [OwnClient(TcpStream(broker.tcp), V5, name) for name in ("left", "right")]
    for client in pair:
        client.connect()
        client.subscribe(f"{topic}/{client.client_id}", 1)
    count = 3000
    floods = [
        threading.Thread(target=flood, args=(pair[0], f"{topic}/right", count, b"x" * 1024), daemon=True),
        threading.Thread(target=flood, args=(pair[1], f"{topic}/left", count, b"x" * 1024), daemon=True),
    ]
    for thread in floods:
        thread.start()
    for client in pair:
        assert len(client.payloads(count)) == count
    for thread in floods:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert memory.grew_less_than(64 * MEBIBYTE), memory


@pytest.mark.parametrize("road", ROADS)
def test_two_clients_that_write_before_they_read_are_both_served(
    broker: Broker, memory: MemoryWatch, topic: str, road: str
) -> None:
    """Each fills the other's queue while neither reads; then both read, and nothing of QoS 1 is missing."""
    pair = []
    for name in ("left", "right"):
        client = stalled_subscriber(broker, road, f"{topic}/{name}", 1, name)
        pair.append(client)
    tickets = []
    # Five times the queue over QUIC, where each byte costs the Python client a hundred times more.
    rounds = 16 if road == "tcp" else 4
    for _ in range(rounds):
        for client, other in (pair, reversed(pair)):
            tickets.append(client.publish_later(f"{topic}/{other.client_id}", b"x" * 32768, qos=1))
            for _ in range(40):
                client.publish(f"{topic}/{other.client_id}", b"y" * 32768)
    for client in pair:
        client.stream.read_again()
        client.send_raw(wire.pingreq())
    for ticket in tickets:
        ticket.result(PATIENCE_S)
    for client in pair:
        wanted = rounds
        while wanted:
            wanted -= client.message().qos
        client.ping()
    assert memory.grew_less_than(64 * MEBIBYTE), memory
    if isinstance(broker, Quelea):
        wait_until("nothing waits any more", lambda: broker.metric(metrics.TICKETS) == 0)
        assert broker.metric(metrics.PARKED) == 0


@quelea_only("mosquitto drops retained messages beyond its queue")
def test_reader_of_a_hundred_thousand_retained_messages(
    broker: Broker, memory: MemoryWatch, bystanders: Bystanders, topic: str
) -> None:
    # QoS 1, because a burst of QoS 0 may lose some; as many at once as the broker's Receive Maximum allows.
    count, batch = 100_000, 32
    writer = OwnClient(TcpStream(broker.tcp), V5, "writer")
    writer.connect()
    for start in range(0, count, batch):
        packets = [
            wire.publish(
                V5,
                f"{topic}/{number % 100}/{number}",
                f"{number}".encode(),
                qos=1,
                packet_id=number - start + 1,
                retain=True,
            )
            for number in range(start, min(start + batch, count))
        ]
        # Acknowledgements come in the order of the publications.
        writer.exchange(b"".join(packets), wire.PUBACK, len(packets))
    # About 400 bytes for each, with its topic in the tree.
    assert memory.grew_less_than(100 * MEBIBYTE), memory
    if isinstance(broker, Quelea):
        wait_until("all are retained", lambda: broker.metric(metrics.RETAINED) == count)
    after_writing = MemoryWatch(broker, broker.rss_bytes())
    slow = stalled_subscriber(broker, "tcp", f"{topic}/#", 0)
    reader = OwnClient(TcpStream(broker.tcp), V5, "reader")
    reader.connect()
    reader.subscribe(f"{topic}/#", 0)
    heard = set()
    for _ in range(count):
        message = reader.message()
        assert message.retain
        heard.add(message.payload)
    assert len(heard) == count
    reader.ping()
    # Two readers at once, one of them stalled, cost queues and buffers, not two copies of everything.
    if not AGAINST_MOSQUITTO:
        assert after_writing.grew_less_than(48 * MEBIBYTE), after_writing
    slow.abort()


# --- Death ----------------------------------------------------------------------------------------------------------------------------


def test_killed_processes_leave_wills_and_nothing_else(broker: Broker, memory: MemoryWatch, topic: str) -> None:
    watcher = OwnClient(TcpStream(broker.tcp), V5, "watcher")
    watcher.connect()
    watcher.subscribe(f"{topic}/wills/+", 1)
    mortals = [
        Subscriber(
            broker.tcp,
            "mqttv5",
            *("-i", f"mortal-{number}", "-t", f"{topic}/{number}"),
            *("--will-topic", f"{topic}/wills/{number}", "--will-payload", "gone", "--will-qos", "1"),
        )
        for number in range(20)
    ]
    for mortal in mortals:
        mortal.kill()
    topics = {watcher.message().topic for _ in mortals}
    assert topics == {f"{topic}/wills/{number}" for number in range(20)}
    if isinstance(broker, Quelea):
        wait_until("only the watcher is left", lambda: broker.metric(metrics.LINKS) == 1)
        assert broker.metric(metrics.WILLS_PUBLISHED) == 20


# --- Wrong packets ------------------------------------------------------------------------------------------------------------------------

MALFORMED, PROTOCOL = 0x81, 0x82
EITHER = (MALFORMED, PROTOCOL)
TOPIC_INVALID = (0x90, *EITHER)


def wrong_after_connect(version: int) -> list[tuple[str, bytes, tuple[int, ...]]]:
    """Packets that a connected client must not send: a name, the bytes, the reasons that fit."""
    props = b"\x00" if version == V5 else b""
    cases = [
        ("type 0", b"\x00\x00", (MALFORMED,)),
        ("PINGREQ with flags", b"\xc8\x00", (MALFORMED,)),
        ("PINGREQ with a body", b"\xc0\x01\x00", EITHER),
        ("PUBLISH at QoS 3", b"\x36" + _sized(b"\x00\x01t\x00\x01" + props), (MALFORMED,)),
        ("PUBLISH at QoS 0 with DUP", b"\x38" + _sized(b"\x00\x01t" + props), EITHER),
        ("PUBLISH with packet id 0", b"\x32" + _sized(b"\x00\x01t\x00\x00" + props), EITHER),
        ("PUBLISH to a wildcard", b"\x30" + _sized(b"\x00\x03t/#" + props), TOPIC_INVALID),
        ("PUBLISH to a plus", b"\x30" + _sized(b"\x00\x01+" + props), TOPIC_INVALID),
        ("PUBLISH to nothing", b"\x30" + _sized(b"\x00\x00" + props), TOPIC_INVALID),
        ("PUBLISH with NUL in its topic", b"\x30" + _sized(b"\x00\x03a\x00b" + props), TOPIC_INVALID),
        ("PUBLISH with broken UTF-8", b"\x30" + _sized(b"\x00\x02\xc3\x28" + props), TOPIC_INVALID),
        ("PUBLISH with a surrogate", b"\x30" + _sized(b"\x00\x03\xed\xa0\x80" + props), TOPIC_INVALID),
        ("PUBLISH with an overlong form", b"\x30" + _sized(b"\x00\x02\xc0\xaf" + props), TOPIC_INVALID),
        ("PUBLISH shorter than its topic", b"\x30" + _sized(b"\x00\x09t"), (MALFORMED,)),
        ("PUBLISH of nothing", b"\x30\x00", EITHER),
        ("remaining length of five bytes", b"\x30\xff\xff\xff\xff\x01", (MALFORMED,)),
        ("PUBREL with wrong flags", b"\x60" + _sized(b"\x00\x01"), (MALFORMED,)),
        ("PUBACK with flags", b"\x42" + _sized(b"\x00\x01"), (MALFORMED,)),
        ("PUBACK of one byte", b"\x40" + _sized(b"\x00"), EITHER),
        ("SUBSCRIBE with wrong flags", b"\x80" + _sized(b"\x00\x01" + props + b"\x00\x01t\x00"), (MALFORMED,)),
        ("SUBSCRIBE without a filter", b"\x82" + _sized(b"\x00\x01" + props), EITHER),
        ("SUBSCRIBE with packet id 0", b"\x82" + _sized(b"\x00\x00" + props + b"\x00\x01t\x00"), EITHER),
        ("SUBSCRIBE at QoS 3", b"\x82" + _sized(b"\x00\x01" + props + b"\x00\x01t\x03"), EITHER),
        ("SUBSCRIBE with reserved bits", b"\x82" + _sized(b"\x00\x01" + props + b"\x00\x01t\xc0"), EITHER),
        ("SUBSCRIBE cut off", b"\x82" + _sized(b"\x00\x01" + props + b"\x00\x05t"), (MALFORMED,)),
        ("UNSUBSCRIBE without a filter", b"\xa2" + _sized(b"\x00\x01" + props), EITHER),
        ("UNSUBSCRIBE with wrong flags", b"\xa0" + _sized(b"\x00\x01" + props + b"\x00\x01t"), (MALFORMED,)),
        ("second CONNECT", wire.connect(version, "again"), (PROTOCOL,)),
        ("CONNACK", b"\x20" + _sized(b"\x00\x00" + props), EITHER),
        ("SUBACK", b"\x90" + _sized(b"\x00\x01" + props + b"\x00"), EITHER),
        ("UNSUBACK", b"\xb0" + _sized(b"\x00\x01" + props), EITHER),
        ("PINGRESP", b"\xd0\x00", EITHER),
        ("DISCONNECT with flags", b"\xe1\x00", (MALFORMED,)),
    ]
    if version == V311:
        return [*cases, ("type 15", b"\xf0\x00", EITHER), ("DISCONNECT with a body", b"\xe0\x01\x00", EITHER)]

    def publish_with(properties: bytes) -> bytes:
        return b"\x30" + _sized(b"\x00\x01t" + properties)

    return [
        *cases,
        ("unknown property", publish_with(b"\x02\x7f\x00"), EITHER),
        ("property of another packet", publish_with(b"\x05\x11\x00\x00\x00\x01"), EITHER),
        ("property twice", publish_with(b"\x04\x01\x00\x01\x00"), (PROTOCOL,)),
        ("property cut off", publish_with(b"\x02\x02\x00"), EITHER),
        ("properties longer than the packet", publish_with(b"\x40\x01\x00"), (MALFORMED,)),
        ("property length of five bytes", publish_with(b"\xff\xff\xff\xff\x01"), (MALFORMED,)),
        ("payload format 2", publish_with(b"\x02\x01\x02"), EITHER),
        ("subscription identifier from a client", publish_with(b"\x02\x0b\x01"), EITHER),
        ("topic alias 0", publish_with(b"\x03\x23\x00\x00"), (0x94, *EITHER)),
        ("topic alias too large", publish_with(b"\x03\x23\xff\xff"), (0x94,)),
        ("response topic with a wildcard", publish_with(b"\x04\x08\x00\x01#"), TOPIC_INVALID),
        ("user property of broken UTF-8", publish_with(b"\x07\x26\x00\x01\xff\x00\x01a"), (MALFORMED,)),
        (
            "subscription identifier 0",
            b"\x82" + _sized(b"\x00\x01\x02\x0b\x00\x00\x01t\x00"),
            EITHER,
        ),
        ("retain handling 3", b"\x82" + _sized(b"\x00\x01\x00\x00\x01t\x30"), EITHER),
        ("no local on a shared subscription", b"\x82" + _sized(b"\x00\x01\x00\x00\x0a$share/g/t\x04"), (PROTOCOL,)),
        ("AUTH without a method", b"\xf0\x00", EITHER),
        ("AUTH with an unknown reason", b"\xf0" + _sized(b"\x77\x00"), EITHER),
        ("DISCONNECT with an unknown reason", b"\xe0" + _sized(b"\x77\x00"), EITHER),
        (
            "DISCONNECT that revives an expired session",
            b"\xe0" + _sized(b"\x00\x05\x11\x00\x00\x00\x10"),
            (PROTOCOL,),
        ),
        ("PUBACK with an unknown reason", b"\x40" + _sized(b"\x00\x01\x77\x00"), EITHER),
    ]


def wrong_connects() -> list[tuple[str, bytes]]:
    """First packets that no broker may accept."""
    good = b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a"
    return [
        ("PINGREQ", wire.pingreq()),
        ("PUBLISH", wire.publish(V311, "t", b"x")),
        ("SUBSCRIBE", wire.subscribe(V5, 1, [("t", 0)])),
        ("zeros", bytes(16)),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
        ("CONNECT with flags", b"\x11" + _sized(good)),
        ("another protocol", b"\x10" + _sized(good.replace(b"MQTT", b"MQTS"))),
        ("lower case", b"\x10" + _sized(good.replace(b"MQTT", b"mqtt"))),
        ("version 6", b"\x10" + _sized(good.replace(b"MQTT\x05", b"MQTT\x06"))),
        ("version 0", b"\x10" + _sized(good.replace(b"MQTT\x05", b"MQTT\x00"))),
        ("reserved connect flag", b"\x10" + _sized(good.replace(b"\x05\x02", b"\x05\x03"))),
        ("will flags without a will", b"\x10" + _sized(good.replace(b"\x05\x02", b"\x05\x2a"))),
        ("will at QoS 3", b"\x10" + _sized(good.replace(b"\x05\x02", b"\x05\x1e") + b"\x00\x00\x01t\x00\x00")),
        ("no client id", b"\x10" + _sized(good[:-3])),
        ("client id cut off", b"\x10" + _sized(good[:-3] + b"\x00\x09a")),
        ("client id of broken UTF-8", b"\x10" + _sized(good[:-3] + b"\x00\x02\xc3\x28")),
        ("bytes behind the end", b"\x10" + _sized(good + b"\x00")),
        ("receive maximum 0", b"\x10" + _sized(b"\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x01a")),
        ("maximum packet size 0", b"\x10" + _sized(b"\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x00\x00\x01a")),
        (
            "session expiry twice",
            b"\x10" + _sized(b"\x00\x04MQTT\x05\x02\x00\x00\x0a" + b"\x11\x00\x00\x00\x01" * 2 + b"\x00\x01a"),
        ),
        ("remaining length of five bytes", b"\x10\xff\xff\xff\xff\x01"),
        ("a packet of 200 MiB", b"\x10\xff\xff\xff\x5f" + good),
    ]


def _sized(body: bytes) -> bytes:
    return wire.varint(len(body)) + body


ROUNDS = 10


@quelea_only("mosquitto's reasons differ, and it accepts some of them")
@pytest.mark.parametrize("road", ["tcp", "quic"])
def test_every_malformed_packet_ends_its_connection_with_a_fitting_reason(
    broker: Quelea, memory: MemoryWatch, bystanders: Bystanders, road: str
) -> None:
    counted = broker.metric(metrics.MALFORMED) + broker.metric(metrics.PROTOCOL_ERRORS)
    sent, wrong = 0, []
    for round_ in range(ROUNDS if road == "tcp" else 1):
        for version in (V311, V5):
            for name, data, reasons in wrong_after_connect(version):
                client = road_client(broker, road, version, f"guilty-{sent}")
                client.connect()
                client.send_raw(data)
                told = client.ended().reason
                # 3.1.1 has no DISCONNECT from a broker; over QUIC the reset may overtake that of 5.0.
                fits = reasons if version == V5 and road == "tcp" else (None,) if version == V311 else (None, *reasons)
                if told not in fits:
                    wrong.append(f"{name} in version {version}: {told}, not {[f'{r:#x}' for r in reasons]}")
                client.abort()
                sent += 1
        assert not wrong, f"round {round_}: {wrong}"
    grown = broker.metric(metrics.MALFORMED) + broker.metric(metrics.PROTOCOL_ERRORS) - counted
    assert grown >= sent, f"{sent} were sent, {grown} were counted"
    assert memory.grew_less_than(32 * MEBIBYTE), memory


@pytest.mark.parametrize("road", ROADS)
def test_wrong_first_packet_ends_its_connection_without_an_answer_that_accepts(
    broker: Broker, bystanders: Bystanders, road: str
) -> None:
    for number, (name, data) in enumerate(wrong_connects()):
        client = road_client(broker, road, V5, f"wrong-{number}")
        answer = client.expect(wire.CONNACK)
        client.send_raw(data)
        client.send_raw(wire.pingreq())  # what waits for more bytes gets some
        if name == "a packet of 200 MiB" and AGAINST_MOSQUITTO:
            continue  # waits for the rest
        assert client.ended().reason is None, name
        assert answer.exception(0) or answer.result(0).reason >= 0x80, name
        client.abort()


def road_client(broker: Broker, road: str, version: int, client_id: str) -> OwnClient:
    stream = TcpStream(broker.tcp) if road == "tcp" else connected_stream(broker.quic)
    return OwnClient(stream, version, client_id)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_packets_harm_nobody_else(
    broker: Broker, memory: MemoryWatch, bystanders: Bystanders, seed: int
) -> None:
    """Good packets with some bytes changed, cut or repeated, and bytes without any sense, from many connections."""
    chance = random.Random(seed)
    for number in range(250):
        version = chance.choice((V311, V5))
        good = [
            wire.connect(version, f"damaged-{seed}-{number}", will=Will("w", b"x", 1)),
            wire.subscribe(version, 1, [("a/+/b", 1), ("#", 2)]),
            wire.publish(version, "a/b/c", b"payload", qos=2, packet_id=3),
            wire.acknowledge(wire.PUBREL, 3),
            wire.unsubscribe(version, 4, ["a/+/b"]),
            wire.disconnect(version),
        ]
        stream = TcpStream(broker.tcp)
        stream.on_bytes, stream.on_end = lambda _data: None, lambda: None
        stream.start()
        client = Sender(stream)
        intact = chance.randrange(len(good))
        client.send(b"".join(good[:intact]))
        client.send(damaged(chance, b"".join(good[intact:])))
        stream.abort()
    assert memory.grew_less_than(32 * MEBIBYTE), memory
    if isinstance(broker, Quelea):
        wait_until("only the bystanders are left", lambda: broker.metric(metrics.LINKS) == 2)


@dataclass
class Sender:
    """Sends to a broker that may have closed already."""

    stream: TcpStream

    def send(self, data: bytes) -> None:
        try:
            self.stream.send(data)
        except OSError:
            pass


def damaged(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(5):
            case 0 if changed:
                changed[at] = chance.randrange(256)
            case 1 if changed:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = chance.randbytes(chance.randint(1, 16))
            case 4:
                changed += changed[at : at + 16]
    return bytes(changed)


# --- Many ---------------------------------------------------------------------------------------------------------------------------------


@quelea_only("mosquitto closes idle connections much later")
@pytest.mark.parametrize("broker", [{"mqtt": {"connect_timeout": "2s"}}], indirect=True, ids=["2s"])
def test_connections_without_a_connect_are_closed_and_counted(broker: Quelea, bystanders: Bystanders) -> None:
    idle = [OwnClient(TcpStream(broker.tcp), V5, f"idle-{number}") for number in range(100)]
    for client in idle:
        assert client.ended().reason is None
    assert broker.metric(metrics.CONNECT_TIMEOUTS) == 100


def test_clients_that_come_and_go_leave_nothing(broker: Broker, memory: MemoryWatch, topic: str) -> None:
    for number in range(500):
        client = OwnClient(TcpStream(broker.tcp), V5, f"passing-{number % 50}")
        client.connect(will=Will(f"{topic}/wills", b"gone"))
        client.subscribe(f"{topic}/{number}", 1)
        client.publish(f"{topic}/{number}", b"x" * 1000, qos=1)
        client.message()
        if number % 2:
            client.disconnect()
        client.abort()
    if isinstance(broker, Quelea):
        wait_until("nobody is left", lambda: broker.metric(metrics.LINKS) == 0)
    assert memory.grew_less_than(16 * MEBIBYTE), memory
