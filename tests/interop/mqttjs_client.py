"""mqtt.js behind the suite's `Client`: one Node.js process hosts all of them, driven by lines of JSON."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
from concurrent.futures import Future, TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from client import PATIENCE_S, Client, Connack, End, Message, NotHeard, Refused
from wire import V5, Will


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


# mqtt.js writes the standard's names in camel case and shortens a few of them.
_THEIRS = {
    "subscription_identifiers": "subscriptionIdentifier",
    "assigned_client_identifier": "assignedClientIdentifier",
    "subscription_identifier_available": "subscriptionIdentifiersAvailable",
}
_NAMES = (
    "payload_format_indicator message_expiry_interval content_type response_topic correlation_data user_properties "
    "subscription_identifiers session_expiry_interval assigned_client_identifier server_keep_alive will_delay_interval "
    "request_response_information response_information reason_string receive_maximum topic_alias_maximum topic_alias "
    "maximum_qos retain_available maximum_packet_size wildcard_subscription_available "
    "subscription_identifier_available shared_subscription_available request_problem_information"
).split()
_OURS = {_THEIRS.get(name, _camel(name)): name for name in _NAMES}


def _to_js(values: dict[str, Any] | None) -> dict[str, Any]:
    found = {}
    for name, value in (values or {}).items():
        if name == "user_properties":
            grouped: dict[str, list[str]] = {}
            for key, text in value:
                grouped.setdefault(key, []).append(text)
            value = grouped
        elif name == "payload_format_indicator":
            value = bool(value)
        elif isinstance(value, bytes):
            value = value.hex()
        found[_THEIRS.get(name, _camel(name))] = value
    return found


def _from_js(values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        ours = _OURS.get(name, name)
        if ours == "user_properties":
            value = [
                (key, text) for key, texts in value.items() for text in (texts if isinstance(texts, list) else [texts])
            ]
        elif ours == "subscription_identifiers" and not isinstance(value, list):
            value = [value]
        elif ours == "correlation_data":
            value = bytes.fromhex(value)
        elif ours == "payload_format_indicator":
            value = int(value)
        found[ours] = value
    return found


class NodeProcess:
    """The process that hosts the clients."""

    def __init__(self, package_dir: Path):
        driver = Path(__file__).with_name("mqttjs_driver.js")
        self._process = subprocess.Popen(
            ["node", str(driver), str(package_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._orders = itertools.count()
        self._open: dict[int, Future[dict[str, Any]]] = {}
        self._clients: dict[int, MqttJsClient] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def add(self, client: "MqttJsClient") -> int:
        number = next(self._orders)
        self._clients[number] = client
        return number

    def order(self, client: int, do: str, **fields: Any) -> dict[str, Any]:
        answer = self.order_later(client, do, **fields)
        try:
            found = answer.result(PATIENCE_S)
        except FutureTimeout:
            raise NotHeard(f"mqtt.js: {do} was not answered in {PATIENCE_S} s") from None
        assert "error" not in found, f"mqtt.js: {do}: {found['error']}"
        return found

    def order_later(self, client: int, do: str, **fields: Any) -> Future[dict[str, Any]]:
        number = next(self._orders)
        answer = self._open[number] = Future()
        line = json.dumps({"order": number, "client": client, "do": do, **fields})
        with self._lock:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return answer

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)

    def _read(self) -> None:
        for line in self._process.stdout:
            found = json.loads(line)
            if "order" not in found:
                self._clients[found["client"]].on_event(found)
            elif answer := self._open.pop(found["order"], None):
                answer.set_result(found)


class MqttJsClient(Client):
    def __init__(
        self,
        node: NodeProcess,
        address: tuple[str, int],
        version: int,
        client_id: str,
        door: str = "tcp",
        cafile: str | None = None,
    ):
        super().__init__()
        self._door = door
        self._cafile = cafile
        self._node = node
        self._address = address
        self.version = version
        self.client_id = client_id
        self._number: int | None = None

    def connect(
        self,
        *,
        clean: bool = True,
        session_expiry_s: int = 0,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Connack:
        props = dict(properties or {})
        if session_expiry_s:
            props["session_expiry_interval"] = session_expiry_s
        options = {
            "protocol": {"tcp": "mqtt", "tls": "mqtts"}.get(self._door, self._door),
            "path": "/mqtt",
            "host": self._address[0],
            "port": self._address[1],
            "protocolVersion": self.version,
            "clientId": self.client_id,
            "clean": clean,
            "keepalive": keep_alive_s,
        }
        if self._cafile:
            options["ca"] = Path(self._cafile).read_text()
        if self.version == V5:
            options["properties"] = _to_js(props)
        if will:
            options["will"] = {
                "topic": will.topic,
                "payload": will.payload.hex(),
                "qos": will.qos,
                "retain": will.retain,
            }
            if self.version == V5:
                options["will"]["properties"] = _to_js(will.properties)
        self._number = self._node.add(self)
        answer = self._node.order(self._number, "connect", options=options)
        if answer["reason"]:
            raise Refused(answer["reason"])
        found = _from_js(answer["properties"])
        self.client_id = found.get("assigned_client_identifier", self.client_id)
        return Connack(answer["sessionPresent"], answer["reason"], found)

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
        options: dict[str, Any] = {"qos": qos}
        if self.version == V5:
            options |= {"nl": no_local, "rap": retain_as_published, "rh": retain_handling}
        props = {"subscriptionIdentifier": identifier} if identifier else None
        return self._node.order(self._number, "subscribe", filter=topic_filter, options=options, properties=props)[
            "reason"
        ]

    def unsubscribe(self, topic_filter: str) -> int:
        return self._node.order(self._number, "unsubscribe", filter=topic_filter)["reason"]

    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        return self._node.order(
            self._number,
            "publish",
            topic=topic,
            payload=payload.hex(),
            qos=qos,
            retain=retain,
            properties=_to_js(properties) if self.version == V5 else None,
        )["reason"]

    def disconnect(self) -> None:
        self._node.order(self._number, "disconnect")

    def abort(self) -> None:
        self._node.order(self._number, "abort")

    def on_event(self, found: dict[str, Any]) -> None:
        if found["event"] == "end":
            self.ends.put(End(found["reason"]))
            return
        self.messages.put(
            Message(
                found["topic"],
                bytes.fromhex(found["payload"]),
                found["qos"],
                found["retain"],
                found["dup"],
                _from_js(found["properties"]),
            )
        )
