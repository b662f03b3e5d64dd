"""What every client of the suite looks like to a test, whoever wrote it.

A test is written once against `Client` and runs over paho-mqtt, mqtt.js and our own clients over TCP and QUIC. Everything
waits for an event with a deadline; nothing sleeps.
"""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable

from wire import V5, Will

# How long a test waits for something that must happen. Generous, because the machine may be busy; a passing test never
# waits this long.
PATIENCE_S = 20.0


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool = False
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass
class Connack:
    session_present: bool
    reason: int
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass
class End:
    """How the broker ended a connection: the reason of its DISCONNECT, or None where there was none."""

    reason: int | None


class Refused(Exception):
    """CONNACK with a reason that is not success."""

    def __init__(self, reason: int):
        super().__init__(f"CONNACK {reason:#04x}")
        self.reason = reason


class NotHeard(AssertionError):
    """Something that had to happen did not happen in time."""


class Client(ABC):
    """One MQTT client. Packets that it receives are acknowledged by the client on its own."""

    version: int
    client_id: str

    def __init__(self) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.ends: queue.Queue[End] = queue.Queue()

    @abstractmethod
    def connect(
        self,
        *,
        clean: bool = True,
        session_expiry_s: int = 0,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Connack:
        """Connects and returns the CONNACK, or raises `Refused`.

        `session_expiry_s` above 0 asks for a session that outlives the connection: in 3.1.1 that is Clean Session 0,
        so there `clean` must be False.
        """

    @abstractmethod
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
        """Subscribes and returns the reason code of the SUBACK."""

    @abstractmethod
    def unsubscribe(self, topic_filter: str) -> int: ...

    @abstractmethod
    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        """Publishes, waits for the last acknowledgement that the QoS has, and returns its reason code."""

    @abstractmethod
    def disconnect(self) -> None:
        """Ends the connection with a DISCONNECT, reason 0."""

    @abstractmethod
    def abort(self) -> None:
        """Ends the connection without a DISCONNECT, as a crash does."""

    def message(self, timeout_s: float = PATIENCE_S) -> Message:
        try:
            return self.messages.get(timeout=timeout_s)
        except queue.Empty:
            raise NotHeard(f"{self.client_id}: no message in {timeout_s} s") from None

    def payloads(self, count: int) -> list[bytes]:
        return [self.message().payload for _ in range(count)]

    def ended(self, timeout_s: float = PATIENCE_S) -> End:
        """Waits until the broker has ended the connection."""
        try:
            return self.ends.get(timeout=timeout_s)
        except queue.Empty:
            raise NotHeard(f"{self.client_id}: the broker kept the connection for {timeout_s} s") from None


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Asks until the answer is true, for states that announce themselves to nobody (a counter, a process' memory)."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.01
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise NotHeard(f"not within {timeout_s} s: {what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.25)
    return answer


def is_v5(client: Client) -> bool:
    return client.version == V5
