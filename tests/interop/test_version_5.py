"""What MQTT 5.0 adds, with every client library that speaks it."""

from __future__ import annotations

import time

import pytest

import wire
from conftest import V5_KINDS, NewClient
from wire import V5, Will

each_kind = pytest.mark.parametrize("kind", V5_KINDS)
# What only a client of ours can show: acknowledgements held back, packets out of place.
OWN_KINDS = ["own-tcp-5", "quic-5"]
each_own_kind = pytest.mark.parametrize("kind", OWN_KINDS)


def let_seconds_pass(new_client: NewClient, kind: str, seconds: int) -> None:
    """Returns when the broker's own clock has moved by `seconds`: a will with that delay has been published."""
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(f"clock/{mortal.client_id}")
    will = Will(f"clock/{mortal.client_id}", properties={"will_delay_interval": seconds})
    mortal.connect(will=will, session_expiry_s=300)
    mortal.abort()
    watcher.message(seconds + 20)


@each_kind
def test_all_properties_of_a_publish_reach_the_subscriber(new_client: NewClient, topic: str, kind: str) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect()
    subscriber.subscribe(topic, 1)
    sent = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": f"{topic}/answers",
        "correlation_data": b"\x00\xff\x10",
        "user_properties": [("b", "2"), ("a", "1"), ("c", "ü")],
    }
    publisher.publish(topic, b"x", qos=1, properties=sent)
    assert subscriber.message().properties == sent


@pytest.mark.parametrize("kind", [kind for kind in V5_KINDS if not kind.startswith("mqttjs")])
def test_user_properties_keep_order_and_repetition(new_client: NewClient, topic: str, kind: str) -> None:
    # mqtt.js groups equal names, so it cannot show this.
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect()
    subscriber.subscribe(topic, 1)
    sent = [("b", "1"), ("a", "2"), ("b", "3"), ("", ""), ("b", "1")]
    publisher.publish(topic, b"x", qos=1, properties={"user_properties": sent})
    assert subscriber.message().properties["user_properties"] == sent


@each_kind
def test_request_finds_its_answer(new_client: NewClient, topic: str, kind: str) -> None:
    asker, server = new_client(kind), new_client(kind)
    asker.connect()
    server.connect()
    asker.subscribe(f"{topic}/answers", 1)
    server.subscribe(f"{topic}/questions", 1)
    asker.publish(
        f"{topic}/questions",
        b"6 * 7",
        qos=1,
        properties={"response_topic": f"{topic}/answers", "correlation_data": b"\x01\x00"},
    )
    question = server.message().properties
    server.publish(
        question["response_topic"], b"42", qos=1, properties={"correlation_data": question["correlation_data"]}
    )
    answer = asker.message()
    assert (answer.payload, answer.properties["correlation_data"]) == (b"42", b"\x01\x00")


@each_kind
def test_delivery_names_the_subscription_identifier(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.subscribe(f"{topic}/a", 1, identifier=7)
    client.subscribe(f"{topic}/b", 1, identifier=268_435_455)
    client.publish(f"{topic}/a", b"a", qos=1)
    client.publish(f"{topic}/b", b"b", qos=1)
    assert client.message().properties["subscription_identifiers"] == [7]
    assert client.message().properties["subscription_identifiers"] == [268_435_455]


@each_kind
def test_overlapping_subscriptions_name_all_their_identifiers(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.subscribe(topic, 1, identifier=1)
    client.subscribe(f"{topic}/#", 1, identifier=2)
    client.publish(topic, b"x", qos=1)
    client.publish(f"{topic}/end", b"end", qos=1)
    # One delivery with both identifiers, or one for each subscription: section 3.3.4 allows either.
    named = []
    while (message := client.message()).payload != b"end":
        named += message.properties["subscription_identifiers"]
    assert sorted(named) == [1, 2]


@each_kind
def test_no_local_keeps_a_client_from_hearing_itself(new_client: NewClient, topic: str, kind: str) -> None:
    client, other = new_client(kind), new_client(kind)
    client.connect()
    other.connect()
    client.subscribe(topic, 1, no_local=True)
    client.publish(topic, b"mine", qos=1)
    other.publish(topic, b"theirs", qos=1)
    assert client.message().payload == b"theirs"


@each_kind
def test_retain_as_published_keeps_the_flag(new_client: NewClient, topic: str, kind: str) -> None:
    plain, keeping = new_client(kind), new_client(kind)
    plain.connect()
    keeping.connect()
    plain.subscribe(topic, 1)
    keeping.subscribe(topic, 1, retain_as_published=True)
    plain.publish(topic, b"x", qos=1, retain=True)
    assert (plain.message().retain, keeping.message().retain) == (False, True)
    plain.publish(topic, b"", qos=1, retain=True)


@each_kind
def test_retain_handling_decides_what_a_subscribe_brings(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.publish(f"{topic}/r", b"retained", qos=1, retain=True)
    client.publish(f"{topic}/end", b"end", qos=1, retain=True)

    def subscribe_hears(retain_handling: int) -> list[bytes]:
        client.subscribe(f"{topic}/r", 1, retain_handling=retain_handling)
        # A live message may overtake a retained one of another topic; what a later SUBSCRIBE brings comes later.
        client.subscribe(f"{topic}/end", 1)
        heard = []
        while (payload := client.message().payload) != b"end":
            heard.append(payload)
        return heard

    assert subscribe_hears(2) == []
    assert subscribe_hears(1) == []  # the subscription is there already
    assert subscribe_hears(0) == [b"retained"]
    client.unsubscribe(f"{topic}/r")
    assert subscribe_hears(1) == [b"retained"]
    for name in ("r", "end"):
        client.publish(f"{topic}/{name}", b"", qos=1, retain=True)


@each_kind
def test_expired_message_is_not_delivered_and_a_living_one_has_aged(
    new_client: NewClient, topic: str, kind: str
) -> None:
    sleeper, publisher = new_client(kind), new_client(kind)
    publisher.connect()
    sleeper.connect(clean=False, session_expiry_s=300)
    sleeper.subscribe(topic, 1)
    sleeper.disconnect()
    publisher.publish(topic, b"short", qos=1, properties={"message_expiry_interval": 1})
    publisher.publish(topic, b"long", qos=1, properties={"message_expiry_interval": 100})
    publisher.publish(topic, b"for ever", qos=1)
    let_seconds_pass(new_client, kind, 2)
    awake = new_client(kind, sleeper.client_id)
    awake.connect(clean=False, session_expiry_s=300)
    aged = awake.message()
    assert aged.payload == b"long"
    assert 80 <= aged.properties["message_expiry_interval"] <= 98
    last = awake.message()
    assert last.payload == b"for ever"
    assert "message_expiry_interval" not in last.properties


@each_kind
def test_retained_message_expires(new_client: NewClient, topic: str, kind: str) -> None:
    publisher, newcomer = new_client(kind), new_client(kind)
    publisher.connect()
    publisher.publish(
        f"{topic}/short", b"short", qos=1, retain=True, properties={"message_expiry_interval": 1}
    )
    publisher.publish(f"{topic}/long", b"long", qos=1, retain=True, properties={"message_expiry_interval": 100})
    let_seconds_pass(new_client, kind, 2)
    newcomer.connect()
    newcomer.subscribe(f"{topic}/+", 1)
    assert newcomer.message().payload == b"long"
    publisher.publish(f"{topic}/live", b"live", qos=1)
    assert newcomer.message().payload == b"live"


@each_kind
def test_session_ends_when_its_expiry_has_passed(new_client: NewClient, topic: str, kind: str) -> None:
    sleeper = new_client(kind)
    sleeper.connect(clean=False, session_expiry_s=1)
    sleeper.subscribe(topic, 1)
    sleeper.abort()
    let_seconds_pass(new_client, kind, 3)
    assert not new_client(kind, sleeper.client_id).connect(clean=False).session_present


@each_kind
def test_will_waits_for_its_delay(new_client: NewClient, topic: str, kind: str) -> None:
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    will = Will(topic, b"gone", 1, properties={"will_delay_interval": 2})
    mortal.connect(will=will, session_expiry_s=300)
    mortal.abort()
    died = time.monotonic()
    assert watcher.message().payload == b"gone"
    # The broker may notice the death a moment after we measured; it never does so before.
    assert time.monotonic() - died > 1.0


@each_kind
def test_reconnecting_within_the_delay_cancels_the_will(new_client: NewClient, topic: str, kind: str) -> None:
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    mortal.connect(will=Will(topic, b"gone", 1, properties={"will_delay_interval": 2}), session_expiry_s=300)
    mortal.abort()
    back = new_client(kind, mortal.client_id)
    assert back.connect(clean=False, session_expiry_s=300).session_present
    let_seconds_pass(new_client, kind, 3)
    watcher.publish(topic, b"nothing before", qos=1)
    assert watcher.message().payload == b"nothing before"


@each_kind
def test_will_comes_with_the_end_of_the_session_if_that_is_earlier(
    new_client: NewClient, topic: str, kind: str
) -> None:
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    mortal.connect(will=Will(topic, b"gone", 1, properties={"will_delay_interval": 3600}), session_expiry_s=1)
    mortal.abort()
    assert watcher.message().payload == b"gone"


@each_kind
def test_will_has_its_properties(new_client: NewClient, topic: str, kind: str) -> None:
    watcher, mortal = new_client(kind), new_client(kind)
    watcher.connect()
    watcher.subscribe(topic, 1)
    properties = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": f"{topic}/answers",
        "correlation_data": b"\x01",
        "user_properties": [("a", "1")],
    }
    mortal.connect(will=Will(topic, b"gone", 1, properties=properties))
    mortal.abort()
    assert watcher.message().properties == properties


@each_kind
def test_empty_client_id_is_given_a_name(new_client: NewClient, topic: str, kind: str) -> None:
    first, second = new_client(kind, ""), new_client(kind, "")
    names = [client.connect().properties["assigned_client_identifier"] for client in (first, second)]
    assert all(names)
    assert names[0] != names[1]


@each_kind
def test_assigned_client_id_resumes_its_session(new_client: NewClient, topic: str, kind: str) -> None:
    first, publisher = new_client(kind, ""), new_client(kind)
    publisher.connect()
    name = first.connect(clean=True, session_expiry_s=300).properties["assigned_client_identifier"]
    first.subscribe(topic, 1)
    first.disconnect()
    publisher.publish(topic, b"x", qos=1)
    again = new_client(kind, name)
    assert again.connect(clean=False).session_present
    assert again.message().payload == b"x"


@pytest.mark.quelea_only("mosquitto 2.0.11 closes without a DISCONNECT")
@each_kind
def test_taken_over_client_is_told_so(new_client: NewClient, topic: str, kind: str) -> None:
    older = new_client(kind)
    older.connect()
    new_client(kind, older.client_id).connect()
    assert older.ended().reason == 0x8E


@each_kind
def test_puback_tells_that_nobody_subscribed(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    assert client.publish(topic, b"x", qos=1) == 0x10
    client.subscribe(topic)
    assert client.publish(topic, b"x", qos=1) == 0


@each_kind
def test_unsuback_tells_that_there_was_no_subscription(new_client: NewClient, topic: str, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    assert client.unsubscribe(topic) == 0x11


@pytest.mark.parametrize("kind", [kind for kind in V5_KINDS if not kind.startswith("mqttjs")])
def test_topic_alias_of_a_client_is_resolved(new_client: NewClient, topic: str, kind: str) -> None:
    # mqtt.js checks and replaces aliases by itself.
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    assert publisher.connect().properties.get("topic_alias_maximum", 0) >= 2
    subscriber.subscribe(f"{topic}/#", 1)
    for name, alias in [("/a", 1), ("/b", 2)]:
        publisher.publish(topic + name, b"defines", qos=1, properties={"topic_alias": alias})
    if not kind.startswith("paho"):  # which refuses an empty topic even beside an alias
        for alias in (1, 2, 1):
            publisher.publish("", b"uses", qos=1, properties={"topic_alias": alias})
    publisher.publish(f"{topic}/c", b"redefines", qos=1, properties={"topic_alias": 1})
    wanted = [("/a", b"defines"), ("/b", b"defines")]
    if not kind.startswith("paho"):
        wanted += [("/a", b"uses"), ("/b", b"uses"), ("/a", b"uses")]
    wanted += [("/c", b"redefines")]
    heard = [subscriber.message() for _ in wanted]
    assert [(m.topic.removeprefix(topic), m.payload) for m in heard] == wanted
    # An alias is a matter of one connection: the subscriber never asked for any.
    assert all("topic_alias" not in m.properties for m in heard)


@each_own_kind
@pytest.mark.parametrize(("alias", "topic_name"), [(0, "t"), (17, "t"), (65535, "t"), (1, "")])
def test_topic_alias_out_of_range_ends_the_connection(
    new_client: NewClient, kind: str, alias: int, topic_name: str
) -> None:
    client = new_client(kind)
    assert client.connect().properties["topic_alias_maximum"] == 16
    client.send_raw(wire.publish(V5, topic_name, b"", props={"topic_alias": alias}))
    # The standard names 0x94 for what is above the maximum; zero and what was never defined may also be called errors.
    assert client.ended().reason in ((0x94,) if alias > 16 else (0x81, 0x82, 0x94))


@pytest.mark.quelea_only("mosquitto sends no aliases of its own")
@each_own_kind
def test_broker_uses_no_more_aliases_than_the_client_allows(new_client: NewClient, topic: str, kind: str) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect(properties={"topic_alias_maximum": 2})
    publisher.connect()
    subscriber.subscribe(f"{topic}/#", 1)
    names = [f"{topic}/{number % 4}" for number in range(40)]
    for name in names:
        publisher.publish(name, name.encode(), qos=1)
    aliases: dict[int, str] = {}
    for name in names:
        message = subscriber.message()
        alias = message.properties.get("topic_alias")
        if message.topic and alias:
            aliases[alias] = message.topic
        assert alias is None or 1 <= alias <= 2
        assert (message.topic or aliases[alias], message.payload) == (name, name.encode())


@each_own_kind
@pytest.mark.parametrize("qos", [1, 2])
def test_broker_respects_the_receive_maximum_of_a_client(
    new_client: NewClient, topic: str, kind: str, qos: int
) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.acknowledges = False
    subscriber.connect(properties={"receive_maximum": 3})
    publisher.connect()
    subscriber.subscribe(topic, qos)
    for number in range(9):
        publisher.publish(topic, f"{number}".encode(), qos=qos)
    # The publishes are acknowledged, so they wait in the session; what the broker may send is on its way before PINGRESP.
    assert subscriber.payloads(3) == [b"0", b"1", b"2"]
    subscriber.ping()
    assert subscriber.messages.empty()


@pytest.mark.quelea_only("mosquitto 2.0.11 sends too many after the first acknowledgement")
@each_own_kind
@pytest.mark.parametrize("qos", [1, 2])
def test_each_acknowledgement_lets_one_more_message_out(
    new_client: NewClient, topic: str, kind: str, qos: int
) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.acknowledges = False
    subscriber.connect(properties={"receive_maximum": 3})
    publisher.connect()
    subscriber.subscribe(topic, qos)
    for number in range(9):
        publisher.publish(topic, f"{number}".encode(), qos=qos)
    subscriber.payloads(3)
    for number in range(3, 9):
        subscriber.acknowledge(subscriber.unanswered[0])
        assert subscriber.message().payload == f"{number}".encode()
        subscriber.ping()
        assert subscriber.messages.empty()


@pytest.mark.quelea_only("mosquitto refuses the message and keeps the client")
@each_own_kind
def test_client_beyond_the_receive_maximum_of_the_broker_is_cut(
    new_client: NewClient, topic: str, kind: str
) -> None:
    client = new_client(kind)
    client.releases = False
    allowed = client.connect().properties.get("receive_maximum", 65535)
    assert allowed <= 100
    for packet_id in range(1, allowed + 2):
        # QoS 2 without PUBREL stays open.
        client.send_raw(wire.publish(V5, topic, b"", qos=2, packet_id=packet_id))
    assert client.ended().reason == 0x93


@each_kind
def test_message_beyond_the_maximum_packet_size_of_a_client_is_left_out(
    new_client: NewClient, topic: str, kind: str
) -> None:
    small, publisher = new_client(kind), new_client(kind)
    small.connect(properties={"maximum_packet_size": 256})
    publisher.connect()
    small.subscribe(topic, 1)
    publisher.publish(topic, b"x" * 1000, qos=1)
    publisher.publish(topic, b"fits", qos=1)
    assert small.message().payload == b"fits"


@pytest.mark.quelea_only("mosquitto's limit is far higher")
@each_own_kind
def test_packet_beyond_the_maximum_of_the_broker_is_refused_by_its_length(
    new_client: NewClient, topic: str, kind: str
) -> None:
    client = new_client(kind)
    maximum = client.connect().properties["maximum_packet_size"]
    # The first bytes of a PUBLISH that announces too much; the rest never comes.
    client.send_raw(b"\x30" + wire.varint(maximum + 1) + wire.text(topic))
    assert client.ended().reason == 0x95


@pytest.mark.quelea_only("mosquitto closes without a DISCONNECT")
@each_own_kind
def test_second_connect_is_a_protocol_error(new_client: NewClient, kind: str) -> None:
    client = new_client(kind)
    client.connect()
    client.send_raw(wire.connect(V5, client.client_id))
    assert client.ended().reason == 0x82


@pytest.mark.quelea_only("mosquitto 2.0.11 closes without a DISCONNECT")
@each_own_kind
def test_silent_client_is_cut_after_its_keep_alive(new_client: NewClient, kind: str) -> None:
    client = new_client(kind)
    client.connect(keep_alive_s=1)
    assert client.ended().reason == 0x8D


@each_own_kind
def test_ping_keeps_a_client_alive(new_client: NewClient, kind: str) -> None:
    silent, pinging = new_client(kind), new_client(kind)
    pinging.connect(keep_alive_s=2)
    silent.connect(keep_alive_s=2)
    while not silent.end.wait(0.5):
        pinging.ping()
    pinging.ping()


@each_own_kind
@pytest.mark.parametrize("qos", [1, 2])
def test_unacknowledged_message_is_repeated_on_resume(
    new_client: NewClient, topic: str, kind: str, qos: int
) -> None:
    forgetful, publisher = new_client(kind), new_client(kind)
    forgetful.acknowledges = False
    publisher.connect()
    forgetful.connect(clean=False, session_expiry_s=300)
    forgetful.subscribe(topic, qos)
    publisher.publish(topic, b"x", qos=qos)
    forgetful.message()
    (first,) = forgetful.unanswered
    forgetful.abort()
    again = new_client(kind, forgetful.client_id)
    again.acknowledges = False
    assert again.connect(clean=False, session_expiry_s=300).session_present
    again.message()
    (second,) = again.unanswered
    assert (second.payload, second.packet_id, second.dup) == (b"x", first.packet_id, True)
    assert not first.dup


@each_own_kind
def test_repeated_qos_2_publish_is_delivered_once(new_client: NewClient, topic: str, kind: str) -> None:
    subscriber, publisher = new_client(kind), new_client(kind)
    subscriber.connect()
    publisher.connect(clean=False, session_expiry_s=300)
    subscriber.subscribe(topic, 2)
    # The first connection dies between PUBREC and PUBREL; the second repeats the PUBLISH.
    publisher.releases = False
    publisher.exchange(wire.publish(V5, topic, b"once", qos=2, packet_id=9), wire.PUBREC, 9)
    publisher.abort()
    again = new_client(kind, publisher.client_id)
    assert again.connect(clean=False, session_expiry_s=300).session_present
    again.exchange(wire.publish(V5, topic, b"once", qos=2, packet_id=9, dup=True), wire.PUBCOMP, 9)
    again.publish(topic, b"next", qos=2)
    assert subscriber.payloads(2) == [b"once", b"next"]


@pytest.mark.quelea_only("mosquitto 2.0.11 accepts it")
@each_own_kind
def test_shared_subscription_without_local_is_a_protocol_error(
    new_client: NewClient, topic: str, kind: str
) -> None:
    client = new_client(kind)
    client.connect()
    client.send_raw(wire.subscribe(V5, 1, [(f"$share/group/{topic}", 0x04 | 1)]))
    assert client.ended().reason == 0x82


@pytest.mark.quelea_only("mosquitto drops it")
@each_own_kind
def test_unacknowledged_message_of_a_group_goes_to_another_member(
    new_client: NewClient, topic: str, kind: str
) -> None:
    silent, working, publisher = new_client(kind), new_client(kind), new_client(kind)
    silent.acknowledges = False
    publisher.connect()
    silent.connect()
    silent.subscribe(f"$share/group/{topic}", 1)
    publisher.publish(topic, b"x", qos=1)
    assert silent.message().payload == b"x"
    working.connect()
    working.subscribe(f"$share/group/{topic}", 1)
    silent.abort()
    assert working.message().payload == b"x"


@pytest.mark.quelea_only("mosquitto answers in the form of 3.1.1")
@each_own_kind
def test_unsupported_protocol_version_is_refused(new_client: NewClient, kind: str) -> None:
    future = wire.packet(wire.CONNECT, 0, wire.text("MQTT") + b"\x06\x02\x00\x00\x00" + wire.text("x"))
    assert new_client(kind).exchange(future, wire.CONNACK).reason == 0x84
