"""What MQTT 3.1.1 and 5.0 promise alike, with every client library on either side.

That something does not happen is shown by something that happens after it: a later message on the same road arrives first.
"""

from __future__ import annotations

import collections
import itertools

import pytest

from client import Refused
from conftest import ALL_KINDS, DOOR_KINDS, KINDS, NewClient
from wire import Will

MEBIBYTE = 1 << 20

each_kind = pytest.mark.parametrize("kind", ALL_KINDS)


# Each client with each over TCP and QUIC; over the other doors each with one over TCP, in either part.
PAIRS = [
    *itertools.product(KINDS, KINDS),
    *((kind, "own-tcp-5") for kind in DOOR_KINDS),
    *(("own-tcp-3.1.1", kind) for kind in DOOR_KINDS),
]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(("publisher_kind", "subscriber_kind"), PAIRS)
def test_every_client_hears_every_other(
    new_client: NewClient, topic: str, publisher_kind: str, subscriber_kind: str, qos: int
) -> None:
    subscriber, publisher = new_client(subscriber_kind), new_client(publisher_kind)
    subscriber.connect()
    publisher.connect()
    assert subscriber.subscribe(topic, qos) == qos
    for number in range(3):
        assert publisher.publish(topic, f"{number}".encode(), qos=qos) == 0
    messages = [subscriber.message() for _ in range(3)]
    assert [(m.topic, m.payload, m.qos, m.retain) for m in messages] == [
        (topic, f"{number}".encode(), qos, False) for number in range(3)
    ]


@each_kind
@pytest.mark.parametrize(("published", "granted"), [(0, 2), (1, 0), (1, 2), (2, 0), (2, 1)])
def test_delivery_has_the_lower_qos(
    new_client: NewClient, topic: str, kind: str, published: int, granted: int
) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect()
    assert subscriber.subscribe(topic, granted) == granted
    publisher.publish(topic, b"x", qos=published)
    assert subscriber.message().qos == min(published, granted)


@each_kind
def test_messages_of_one_publisher_keep_their_order(new_client: NewClient, topic: str, kind: str) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect()
    subscriber.subscribe(topic, 1)
    payloads = [f"{number}".encode() for number in range(200)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=1)
    assert subscriber.payloads(200) == payloads


@each_kind
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_payload_of_one_mebibyte_arrives_whole(new_client: NewClient, topic: str, kind: str, qos: int) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect()
    subscriber.subscribe(topic, qos)
    # A pattern that is not periodic in any power of two: a block in the wrong place shows.
    payload = (b"".join(number.to_bytes(3, "big") for number in range(MEBIBYTE // 3 + 1)))[:MEBIBYTE]
    publisher.publish(topic, payload, qos=qos)
    assert subscriber.message().payload == payload


@each_kind
def test_empty_payload_is_delivered(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.subscribe(topic, 1)
    client.publish(topic, b"", qos=1)
    assert client.message().payload == b""


@each_kind
def test_wildcards_match_by_level(new_client: NewClient, topic: str, kind: str) -> None:
    one_level, all_levels, publisher = new_client(kind), new_client(kind), new_client(kind)
    for client in (one_level, all_levels, publisher):
        client.connect()
    one_level.subscribe(f"{topic}/+/temperature", 1)
    all_levels.subscribe(f"{topic}/#", 1)
    names = ["", "/kitchen", "/kitchen/temperature", "/a/b/temperature", "//temperature", "/last/temperature"]
    for name in names:
        publisher.publish(topic + name, name.encode(), qos=1)
    assert all_levels.payloads(len(names)) == [name.encode() for name in names]
    assert one_level.payloads(3) == [b"/kitchen/temperature", b"//temperature", b"/last/temperature"]


@each_kind
def test_unsubscribe_ends_delivery(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.subscribe(f"{topic}/a", 1)
    client.subscribe(f"{topic}/b", 1)
    assert client.unsubscribe(f"{topic}/a") == 0
    client.publish(f"{topic}/a", b"unheard", qos=1)
    client.publish(f"{topic}/b", b"heard", qos=1)
    assert client.message().payload == b"heard"


@each_kind
def test_retained_message_is_set_replaced_and_cleared(new_client: NewClient, topic: str, kind: str) -> None:
    publisher = new_client(kind)
    publisher.connect()
    publisher.publish(f"{topic}-end", b"end", qos=1, retain=True)

    def newcomer_hears() -> list[tuple[bytes, bool]]:
        """What a new subscriber is given: all that comes before what a second SUBSCRIBE brings."""
        newcomer = new_client(kind)
        newcomer.connect()
        newcomer.subscribe(f"{topic}/#", 1)
        newcomer.subscribe(f"{topic}-end", 1)
        heard = []
        while (message := newcomer.message()).payload != b"end":
            heard.append((message.payload, message.retain))
        newcomer.disconnect()
        return heard

    publisher.publish(topic, b"first", qos=1, retain=True)
    assert newcomer_hears() == [(b"first", True)]
    publisher.publish(topic, b"second", qos=1, retain=True)
    assert newcomer_hears() == [(b"second", True)]
    publisher.publish(topic, b"not retained", qos=1)
    assert newcomer_hears() == [(b"second", True)]
    publisher.publish(topic, b"", qos=1, retain=True)
    assert newcomer_hears() == []
    publisher.publish(f"{topic}-end", b"", qos=1, retain=True)


@each_kind
def test_retained_message_reaches_present_subscriber_as_live(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.subscribe(topic, 1)
    client.publish(topic, b"x", qos=1, retain=True)
    assert not client.message().retain
    client.publish(topic, b"", qos=1, retain=True)


@each_kind
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_is_published_when_the_client_dies(new_client: NewClient, topic: str, kind: str, qos: int) -> None:
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 2)
    mortal.connect(will=Will(topic, b"gone", qos))
    mortal.abort()
    message = watcher.message()
    assert (message.payload, message.qos, message.retain) == (b"gone", qos, False)


@each_kind
def test_will_can_be_retained(new_client: NewClient, topic: str, kind: str) -> None:
    watcher, mortal, newcomer = new_client(kind), new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    mortal.connect(will=Will(topic, b"gone", 1, retain=True))
    mortal.abort()
    watcher.message()
    newcomer.connect()
    newcomer.subscribe(topic, 1)
    message = newcomer.message()
    assert (message.payload, message.retain) == (b"gone", True)
    watcher.publish(topic, b"", qos=1, retain=True)


@each_kind
def test_will_is_not_published_after_a_clean_disconnect(new_client: NewClient, topic: str, kind: str) -> None:
    watcher, polite = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    polite.connect(will=Will(topic, b"gone", 1))
    polite.disconnect()
    # Once the same client is in again, the broker has finished with its former connection.
    again = new_client(kind, polite.client_id)
    again.connect()
    again.publish(topic, b"still here", qos=1)
    assert watcher.message().payload == b"still here"


@each_kind
@pytest.mark.parametrize("qos", [1, 2])
def test_persistent_session_keeps_subscriptions_and_messages(
    new_client: NewClient, topic: str, kind: str, qos: int
) -> None:
    sleeper, publisher = new_client(kind), new_client(kind)
    publisher.connect()
    assert not sleeper.connect(clean=False, session_expiry_s=300).session_present
    sleeper.subscribe(topic, qos)
    sleeper.disconnect()
    payloads = [f"{number}".encode() for number in range(100)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=qos)
    awake = new_client(kind, sleeper.client_id)
    assert awake.connect(clean=False, session_expiry_s=300).session_present
    assert awake.payloads(100) == payloads
    publisher.publish(topic, b"live", qos=qos)
    assert awake.message().payload == b"live"
    # The session goes with the connection that asks for no expiry.
    awake.disconnect()
    new_client(kind, sleeper.client_id).connect()


@each_kind
def test_clean_start_forgets_the_session(new_client: NewClient, topic: str, kind: str) -> None:
    sleeper, publisher = new_client(kind), new_client(kind)
    publisher.connect()
    sleeper.connect(clean=False, session_expiry_s=300)
    sleeper.subscribe(f"{topic}/old", 1)
    sleeper.disconnect()
    publisher.publish(f"{topic}/old", b"queued", qos=1)
    fresh = new_client(kind, sleeper.client_id)
    assert not fresh.connect(clean=True).session_present
    fresh.subscribe(f"{topic}/new", 1)
    publisher.publish(f"{topic}/old", b"live", qos=1)
    publisher.publish(f"{topic}/new", b"wanted", qos=1)
    assert fresh.message().payload == b"wanted"


@each_kind
def test_session_survives_the_death_of_its_connection(new_client: NewClient, topic: str, kind: str) -> None:
    sleeper, publisher = new_client(kind), new_client(kind)
    publisher.connect()
    sleeper.connect(clean=False, session_expiry_s=300)
    sleeper.subscribe(topic, 1)
    sleeper.abort()
    publisher.publish(topic, b"x", qos=1)
    awake = new_client(kind, sleeper.client_id)
    assert awake.connect(clean=False, session_expiry_s=300).session_present
    assert awake.message().payload == b"x"
    awake.disconnect()
    new_client(kind, sleeper.client_id).connect()


@each_kind
def test_session_moves_to_the_newer_connection(new_client: NewClient, topic: str, kind: str) -> None:
    older, publisher = new_client(kind), new_client(kind)
    publisher.connect()
    older.connect(clean=False, session_expiry_s=300)
    older.subscribe(topic, 1)
    newer = new_client(kind, older.client_id)
    assert newer.connect(clean=False, session_expiry_s=300).session_present
    older.ended()
    publisher.publish(topic, b"x", qos=1)
    assert newer.message().payload == b"x"
    newer.disconnect()
    new_client(kind, older.client_id).connect()


@each_kind
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_shared_subscription_gives_each_message_to_one_member(
    new_client: NewClient, topic: str, kind: str, qos: int
) -> None:
    members = [new_client(kind) for _ in range(4)]
    publisher, witness = new_client(kind), new_client(kind)
    for client in (*members, publisher, witness):
        client.connect()
    witness.subscribe(topic, qos)
    for member in members:
        assert member.subscribe(f"$share/workers/{topic}", qos) == qos
    payloads = [f"{number}".encode() for number in range(80)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=qos)
    assert witness.payloads(80) == payloads
    # Each member gets a last message of its own; what came before it is the member's share.
    shares = []
    for number, member in enumerate(members):
        member.subscribe(f"{topic}/end/{number}", 1)
        publisher.publish(f"{topic}/end/{number}", b"end", qos=1)
    for member in members:
        share = []
        while (payload := member.message().payload) != b"end":
            share.append(payload)
        shares.append(share)
    assert sorted(payload for share in shares for payload in share) == sorted(payloads)
    assert all(shares), f"members without work: {[len(share) for share in shares]}"


@each_kind
def test_two_groups_each_get_every_message(new_client: NewClient, topic: str, kind: str) -> None:
    red, blue, publisher = new_client(kind), new_client(kind), new_client(kind)
    for client in (red, blue, publisher):
        client.connect()
    red.subscribe(f"$share/red/{topic}", 1)
    blue.subscribe(f"$share/blue/{topic}", 1)
    payloads = [f"{number}".encode() for number in range(20)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=1)
    assert red.payloads(20) == blue.payloads(20) == payloads


@pytest.mark.quelea_only("mosquitto gives retained messages to shared subscriptions")
@each_kind
def test_shared_subscription_takes_no_retained_message(new_client: NewClient, topic: str, kind: str) -> None:
    publisher, member = new_client(kind), new_client(kind)
    publisher.connect()
    member.connect()
    publisher.publish(topic, b"retained", qos=1, retain=True)
    member.subscribe(f"$share/workers/{topic}", 1)
    publisher.publish(topic, b"live", qos=1)
    assert member.message().payload == b"live"
    publisher.publish(topic, b"", qos=1, retain=True)


@each_kind
def test_many_subscribers_each_get_every_message(new_client: NewClient, topic: str, kind: str) -> None:
    subscribers = [new_client(kind) for _ in range(20)]
    publisher = new_client(kind)
    publisher.connect()
    for subscriber in subscribers:
        subscriber.connect()
        subscriber.subscribe(topic, 1)
    payloads = [f"{number}".encode() for number in range(20)]
    for payload in payloads:
        publisher.publish(topic, payload, qos=1)
    counts = collections.Counter(tuple(subscriber.payloads(20)) for subscriber in subscribers)
    assert counts == {tuple(payloads): 20}


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind.endswith("3.1.1") and not kind.startswith("paho")])
def test_empty_client_id_needs_a_clean_session_in_3_1_1(new_client: NewClient, kind: str) -> None:
    # paho-mqtt refuses this by itself, before it reaches a broker.
    new_client(kind, "").connect(clean=True)
    if kind.startswith("mqttjs"):
        return
    with pytest.raises(Refused) as refused:
        new_client(kind, "").connect(clean=False)
    assert refused.value.reason == 0x02
