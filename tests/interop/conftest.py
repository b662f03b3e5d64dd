"""Fixtures of the interoperability suite. What runs against what is said in `scripts/interop.sh`."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import TARGET, Broker, Mosquitto, Quelea
from client import Client
from layered import BytewiseStream, TlsStream, WebSocketStream
from mqttjs_client import MqttJsClient, NodeProcess
from mqtt_quic import connected_stream
from own_client import OwnClient, Stream, TcpStream
from paho_client import PahoClient
from wire import V5, V311

AGAINST_MOSQUITTO = os.environ.get("BROKER") == "mosquitto"

TCP_KINDS = ["paho-3.1.1", "paho-5", "mqttjs-3.1.1", "mqttjs-5", "own-tcp-3.1.1", "own-tcp-5"]
QUIC_KINDS = ["quic-3.1.1", "quic-5"]
KINDS = TCP_KINDS + QUIC_KINDS
# Every library over every door that it knows, each protocol version over some of them.
DOOR_KINDS = [
    "paho-tls-5",
    "paho-ws-3.1.1",
    "paho-wss-5",
    "mqttjs-tls-3.1.1",
    "mqttjs-ws-5",
    "mqttjs-wss-3.1.1",
    "own-tls-5",
    "own-ws-3.1.1",
    "own-wss-5",
]
ALL_KINDS = KINDS + DOOR_KINDS
V5_KINDS = [kind for kind in KINDS if kind.endswith("-5")]

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not AGAINST_MOSQUITTO:
        return
    for item in items:
        parameters = getattr(item, "callspec", None)
        if marker := item.get_closest_marker("quelea_only"):
            item.add_marker(pytest.mark.skip(reason=marker.args[0]))
        elif parameters and any(
            value in QUIC_KINDS + DOOR_KINDS for value in parameters.params.values()
        ):
            item.add_marker(pytest.mark.skip(reason="mosquitto is asked over TCP"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the end of the logs of every broker that the test used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Broker):
                report.sections.append((f"log of {name}", value.log()[-8000:]))
    return report


@contextlib.contextmanager
def running(
    directory: Path, settings: dict[str, dict[str, object]] | None = None, tail: str = ""
) -> Iterator[Broker]:
    """`tail` is added to the configuration's file."""
    broker = Mosquitto(directory) if AGAINST_MOSQUITTO else Quelea(directory, settings, tail=tail)
    try:
        yield broker
        ended_itself = not broker.alive() and not broker.was_stopped
        assert not ended_itself, f"the broker ended on its own: {broker.process.returncode}\n{broker.log()}"
        assert broker.stop() == 0, broker.log()
    finally:
        broker.destroy()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for the tests of a file; their topics and client ids never meet."""
    with running(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that this test has to itself."""
    with running(tmp_path) as broker:
        yield broker


@pytest.fixture(scope="session")
def node() -> Iterator[NodeProcess]:
    process = NodeProcess(TARGET / "interop-node")
    yield process
    process.stop()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that no other test uses."""
    return f"interop/{request.function.__name__}/{next(_numbers)}"


NewClient = Callable[..., Client]


@pytest.fixture
def new_client(request: pytest.FixtureRequest, broker: Broker) -> Iterator[NewClient]:
    """Makes clients of a kind; they are aborted when the test ends. Names may be given again, for sessions."""
    with contextlib.ExitStack() as stack:
        yield client_factory(request, broker, stack)


def client_factory(request: pytest.FixtureRequest, broker: Broker, stack: contextlib.ExitStack) -> NewClient:
    def new(kind: str, client_id: str | None = None) -> Client:
        if client_id is None:
            client_id = f"{request.function.__name__[:40]}-{next(_numbers)}"
        client = _client(request, broker, kind, client_id)
        stack.callback(_abort, client)
        return client

    return new


def _client(request: pytest.FixtureRequest, broker: Broker, kind: str, client_id: str) -> Client:
    library, *door, version_name = kind.split("-")
    door = door[0] if door else "tcp"
    version = V5 if version_name == "5" else V311
    if library == "quic":
        return OwnClient(connected_stream(broker.quic), version, client_id)
    address = broker.tcp if door == "tcp" else broker.door(door)
    cafile = broker.cafile if door in ("tls", "wss") else None
    match library:
        case "paho":
            return PahoClient(address, version, client_id, door, cafile)
        case "mqttjs":
            return MqttJsClient(request.getfixturevalue("node"), address, version, client_id, door, cafile)
        case "own":
            return OwnClient(door_stream(broker, door), version, client_id)
    raise AssertionError(kind)


def door_stream(broker: Broker, door: str, bytewise: bool = False, **options: int) -> Stream:
    """A stream of ours with the layers of a door on it."""
    stream: Stream = TcpStream(broker.tcp if door == "tcp" else broker.door(door), **options)
    if bytewise:
        stream = BytewiseStream(stream)
    if door in ("tls", "wss"):
        stream = TlsStream(stream, broker.cafile)
    if door in ("ws", "wss"):
        stream = WebSocketStream(stream)
    return stream


def _abort(client: Client) -> None:
    # A client that never connected, or is gone already, has nothing to abort.
    with contextlib.suppress(Exception):
        client.abort()
