"""Clients on different shards. Which shard a client has is the kernel's choice; `/metrics` tells it afterwards."""

from __future__ import annotations

import pytest

from broker import Quelea
from client import Client, wait_until
from conftest import NewClient
from metrics import DATAGRAMS_FORWARDED, ENVELOPES_SENT, SESSIONS_CONNECTED
from wire import Will

pytestmark = pytest.mark.quelea_only("mosquitto has one thread")

# Two shards: the chance that so many clients all land on one is below one in a million.
TRIES = 21

each_road = pytest.mark.parametrize(
    ("publisher_kind", "subscriber_kind"),
    [
        ("own-tcp-5", "own-tcp-5"),
        ("quic-5", "quic-5"),
        ("own-tcp-5", "quic-5"),
        ("quic-5", "own-tcp-5"),
        ("paho-5", "mqttjs-3.1.1"),
        ("mqttjs-5", "paho-3.1.1"),
    ],
)


def connected_by_shard(broker: Quelea) -> dict[str, float]:
    return broker.by_shard(SESSIONS_CONNECTED)


def connect_and_find_shard(broker: Quelea, client: Client, **options: object) -> str:
    """Connects and returns the shard that serves the client. Nothing else may connect meanwhile."""
    before = connected_by_shard(broker)
    client.connect(**options)

    def grown() -> list[str]:
        now = connected_by_shard(broker)
        return [shard for shard, count in now.items() if count == before.get(shard, 0) + 1]

    return wait_until("one more connected session in /metrics", grown)[0]


def two_shards(broker: Quelea, new_client: NewClient, first_kind: str, second_kind: str) -> tuple[Client, Client]:
    """Two connected clients of these kinds that different shards serve."""
    first = new_client(first_kind)
    shard = connect_and_find_shard(broker, first)
    for _ in range(TRIES):
        second = new_client(second_kind)
        if connect_and_find_shard(broker, second) != shard:
            return first, second
    raise AssertionError(f"{TRIES} clients all came to shard {shard}")


@pytest.fixture
def broker(own_broker: Quelea) -> Quelea:
    """To itself: clients of other tests would change the counts."""
    return own_broker


@each_road
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_cross_shards(
    new_client: NewClient, broker: Quelea, topic: str, publisher_kind: str, subscriber_kind: str, qos: int
) -> None:
    publisher, subscriber = two_shards(broker, new_client, publisher_kind, subscriber_kind)
    subscriber.subscribe(topic, qos)
    payloads = [f"{number}".encode() for number in range(50)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=qos)
    assert subscriber.payloads(50) == payloads
    wait_until("envelopes between the shards", lambda: broker.metric(ENVELOPES_SENT) >= 1)
    assert broker.metric(DATAGRAMS_FORWARDED) == 0


@each_road
def test_large_payload_crosses_shards(
    new_client: NewClient, broker: Quelea, topic: str, publisher_kind: str, subscriber_kind: str
) -> None:
    publisher, subscriber = two_shards(broker, new_client, publisher_kind, subscriber_kind)
    subscriber.subscribe(topic, 1)
    payload = bytes(range(256)) * 4096
    publisher.publish(topic, payload, qos=1)
    assert subscriber.message().payload == payload


@each_road
def test_retained_message_is_found_from_both_shards(
    new_client: NewClient, broker: Quelea, topic: str, publisher_kind: str, subscriber_kind: str
) -> None:
    publisher, subscriber = two_shards(broker, new_client, publisher_kind, subscriber_kind)
    # Topics are divided among the shards by hash: of many, some live on each.
    names = [f"{topic}/{number}" for number in range(32)]
    for name in names:
        publisher.publish(name, name.encode(), qos=1, retain=True)
    for client in (publisher, subscriber):
        client.subscribe(f"{topic}/#", 1)
        heard = [client.message() for _ in names]
        assert sorted(m.payload.decode() for m in heard) == sorted(names)
        assert all(m.retain for m in heard)


@each_road
def test_will_crosses_shards(
    new_client: NewClient, broker: Quelea, topic: str, publisher_kind: str, subscriber_kind: str
) -> None:
    _, watcher = two_shards(broker, new_client, publisher_kind, subscriber_kind)
    watcher.subscribe(topic, 1)
    shards = set()
    for number in range(TRIES):
        mortal = new_client(publisher_kind)
        shards.add(connect_and_find_shard(broker, mortal, will=Will(topic, f"{number}".encode(), 1)))
        mortal.abort()
        assert watcher.message().payload == f"{number}".encode()
        # The count must be quiet before the next client is looked for.
        wait_until("the session is gone", lambda: broker.metric(SESSIONS_CONNECTED) <= TRIES + 1)
        if len(shards) == 2:
            return
    raise AssertionError(f"all wills came from shard {shards}")


def test_group_has_members_on_both_shards(new_client: NewClient, broker: Quelea, topic: str) -> None:
    members = two_shards(broker, new_client, "own-tcp-5", "quic-5")
    publisher = new_client("own-tcp-5")
    publisher.connect()
    for member in members:
        member.subscribe(f"$share/workers/{topic}", 1)
        member.subscribe(f"{topic}/end", 1)
    payloads = [f"{number}".encode() for number in range(200)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=1)
    heard = []
    publisher.publish(f"{topic}/end", b"end", qos=1)
    for member in members:
        share = []
        while (payload := member.message().payload) != b"end":
            share.append(payload)
        assert share, "a member without work"
        heard += share
    assert sorted(heard) == sorted(payloads)


@pytest.mark.parametrize("kind", ["own-tcp-5", "quic-5"])
def test_session_follows_its_client_to_another_shard(
    new_client: NewClient, broker: Quelea, topic: str, kind: str
) -> None:
    publisher, first = new_client("own-tcp-5"), new_client(kind)
    publisher.connect()
    shards = [connect_and_find_shard(broker, first, clean=False, session_expiry_s=300)]
    first.subscribe(topic, 1)
    for number in range(TRIES):
        # Half of the messages come while the client is away.
        publisher.publish(topic, f"{number} live".encode(), qos=1)
        assert first.message().payload == f"{number} live".encode()
        first.disconnect()
        publisher.publish(topic, f"{number} away".encode(), qos=1)
        wait_until("the client has left", lambda: broker.metric(SESSIONS_CONNECTED) == 1)
        first = new_client(kind, first.client_id)
        shards.append(connect_and_find_shard(broker, first, clean=False, session_expiry_s=300))
        assert first.message().payload == f"{number} away".encode()
        if len(set(shards)) == 2 and len(shards) > 5:
            return
    raise AssertionError(f"the client always came to the same shard: {shards}")


@pytest.mark.parametrize("kind", ["own-tcp-5", "quic-5"])
def test_session_moves_under_traffic_without_loss(
    new_client: NewClient, broker: Quelea, topic: str, kind: str
) -> None:
    publisher, reader = new_client("own-tcp-5"), new_client(kind)
    publisher.connect()
    reader.connect(clean=False, session_expiry_s=300)
    reader.subscribe(topic, 2)
    readers, tickets = [reader], []
    for number in range(300):
        tickets.append(publisher.publish_later(topic, f"{number}".encode(), qos=2))
        if len(tickets) >= 16:
            tickets.pop(0).result(20)
        if number % 30 == 29:
            # A new connection takes the session over while messages are on their way to the old one.
            readers.append(new_client(kind, reader.client_id))
            assert readers[-1].connect(clean=False, session_expiry_s=300).session_present
    for ticket in tickets:
        ticket.result(20)
    publisher.publish(topic, b"end", qos=2)
    heard = []
    while (payload := readers[-1].message().payload) != b"end":
        heard.append(payload)
    for reader in readers[:-1]:
        while not reader.messages.empty():
            heard.append(reader.message().payload)
    assert set(heard) == {f"{number}".encode() for number in range(300)}
