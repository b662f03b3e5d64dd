"""mosquitto_pub and mosquitto_sub against the broker, in every protocol version that they speak."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from broker import Broker
from mosquitto_clients import VERSIONS, Subscriber, publish

each_version = pytest.mark.parametrize("version", VERSIONS)

NewSubscriber = Callable[..., Subscriber]


@pytest.fixture
def subscribe(broker: Broker) -> Iterator[NewSubscriber]:
    """Starts mosquitto_sub; whatever still runs when the test ends is killed."""
    with contextlib.ExitStack() as stack:

        def start(version: str, *arguments: str, **options: str) -> Subscriber:
            subscriber = Subscriber(broker.tcp, version, *arguments, **options)
            stack.callback(subscriber.kill)
            return subscriber

        yield start


@each_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_arrives(broker: Broker, subscribe: NewSubscriber, topic: str, version: str, qos: int) -> None:
    subscriber = subscribe(version, "-t", topic, "-q", f"{qos}")
    publish(broker.tcp, version, "-t", topic, "-q", f"{qos}", "-m", "hello")
    heard = subscriber.heard()
    assert (heard.payload, heard.qos, heard.retain) == (b"hello", qos, False)


@pytest.mark.parametrize("subscriber_version", VERSIONS)
@each_version
def test_versions_hear_each_other(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str, subscriber_version: str
) -> None:
    subscriber = subscribe(subscriber_version, "-t", topic, "-q", "1")
    publish(broker.tcp, version, "-t", topic, "-q", "1", "-m", "hello")
    assert subscriber.heard().payload == b"hello"


@each_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_payload_of_one_mebibyte_arrives_whole(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str, qos: int
) -> None:
    subscriber = subscribe(version, "-t", topic, "-q", f"{qos}")
    payload = bytes(range(256)) * 4096
    publish(broker.tcp, version, "-t", topic, "-q", f"{qos}", "-s", payload=payload)
    assert subscriber.heard().payload == payload


@pytest.mark.parametrize(
    "version",
    [
        "mqttv31",
        "mqttv311",
        pytest.param(
            "mqttv5", marks=pytest.mark.quelea_only("mosquitto 2.0.11 exceeds the Receive Maximum of its own client")
        ),
    ],
)
def test_lines_of_a_file_keep_their_order(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str
) -> None:
    subscriber = subscribe(version, "-t", topic, "-q", "2")
    lines = [f"line {number}".encode() for number in range(100)]
    publish(broker.tcp, version, "-t", topic, "-q", "2", "-l", payload=b"\n".join(lines) + b"\n")
    assert [subscriber.heard().payload for _ in lines] == lines


@each_version
def test_retained_message_is_set_replaced_and_cleared(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str
) -> None:
    for text in ("first", "second"):
        publish(broker.tcp, version, "-t", topic, "-q", "1", "-r", "-m", text)
        heard = subscribe(version, "-t", topic, "-q", "1").heard()
        assert (heard.payload, heard.retain) == (text.encode(), True)
    publish(broker.tcp, version, "-t", topic, "-q", "1", "-r", "-n")
    subscriber = subscribe(version, "-t", topic, "-q", "1")
    publish(broker.tcp, version, "-t", topic, "-q", "1", "-m", "live")
    assert subscriber.heard().payload == b"live"


@each_version
def test_will_is_published_when_the_process_is_killed(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str
) -> None:
    watcher = subscribe(version, "-t", topic, "-q", "1")
    mortal = subscribe(
        version, "-t", f"{topic}/x", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"
    )
    mortal.kill()
    assert watcher.heard().payload == b"gone"


@each_version
def test_persistent_session_keeps_messages(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str
) -> None:
    name = topic.replace("/", "-")[-20:]  # MQTT 3.1 allows 23 characters
    session = ["-i", name, "-c", "-t", topic, "-q", "1"]
    if version == "mqttv5":
        session += ["-x", "300"]
    sleeper = subscribe(version, *session)
    sleeper.kill()
    for number in range(10):
        publish(broker.tcp, version, "-t", topic, "-q", "1", "-m", f"{number}")
    awake = subscribe(version, *session, wait_for="")
    assert [awake.heard().payload for _ in range(10)] == [f"{number}".encode() for number in range(10)]


@each_version
def test_shared_subscription_divides_the_work(
    broker: Broker, subscribe: NewSubscriber, topic: str, version: str
) -> None:
    members = [subscribe(version, "-t", f"$share/workers/{topic}", "-t", f"{topic}/end", "-q", "1") for _ in range(3)]
    lines = [f"{number}".encode() for number in range(60)]
    publish(broker.tcp, version, "-t", topic, "-q", "1", "-l", payload=b"\n".join(lines) + b"\n")
    publish(broker.tcp, version, "-t", f"{topic}/end", "-q", "1", "-m", "end")
    shares = []
    for member in members:
        share = []
        while (payload := member.heard().payload) != b"end":
            share.append(payload)
        shares.append(share)
    assert sorted(payload for share in shares for payload in share) == sorted(lines)
    assert all(shares), f"members without work: {[len(share) for share in shares]}"


@each_version
def test_subscriber_leaves_after_a_count(broker: Broker, subscribe: NewSubscriber, topic: str, version: str) -> None:
    subscriber = subscribe(version, "-t", topic, "-C", "2", "-q", "2")
    publish(broker.tcp, version, "-t", topic, "-q", "2", "-l", payload=b"a\nb\n")
    assert subscriber.wait() == 0


def test_properties_of_version_5_arrive(broker: Broker, subscribe: NewSubscriber, topic: str) -> None:
    subscriber = subscribe(
        "mqttv5",
        "-t",
        topic,
        "-D",
        "subscribe",
        "subscription-identifier",
        "42",
        line_format="PROPERTIES [%C] [%D] [%F] [%R] [%S] [%P]",
    )
    properties = [
        ("content-type", "text/plain"),
        ("correlation-data", "abc"),
        ("payload-format-indicator", "1"),
        ("response-topic", "answers"),
        ("user-property", "b", "2"),
        ("user-property", "a", "1"),
    ]
    arguments = [word for item in properties for word in ("-D", "publish", *item)]
    publish(broker.tcp, "mqttv5", "-t", topic, "-m", "x", *arguments)
    found = subscriber.line(r"^PROPERTIES (.*)$")[1]
    assert found == "[text/plain] [abc] [1] [answers] [42] [b:2 a:1]"


def test_publishing_to_a_wildcard_is_refused_without_harm(
    broker: Broker, subscribe: NewSubscriber, topic: str
) -> None:
    subscriber = subscribe("mqttv5", "-t", f"{topic}/#", "-q", "1")
    with pytest.raises(AssertionError, match="mosquitto_pub"):
        publish(broker.tcp, "mqttv5", "-t", f"{topic}/#", "-m", "x")
    publish(broker.tcp, "mqttv5", "-t", topic, "-q", "1", "-m", "still here")
    assert subscriber.heard().payload == b"still here"
