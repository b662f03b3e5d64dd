"""paho-mqtt behind the suite's `Client`."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from client import PATIENCE_S, Client, Connack, End, Message, NotHeard, Refused
from wire import V5, Will

# Our property names are the standard's words; paho writes them in camel case, one of them in the singular.
_SINGULAR = {"subscription_identifiers": "SubscriptionIdentifier", "user_properties": "UserProperty"}
_OURS = {
    name: _SINGULAR.get(name, "".join(word.capitalize() for word in name.split("_")))
    for name in (
        "payload_format_indicator message_expiry_interval content_type response_topic correlation_data "
        "subscription_identifiers session_expiry_interval assigned_client_identifier server_keep_alive "
        "request_problem_information will_delay_interval request_response_information response_information "
        "reason_string receive_maximum topic_alias_maximum topic_alias maximum_qos retain_available "
        "user_properties maximum_packet_size wildcard_subscription_available "
        "subscription_identifier_available shared_subscription_available"
    ).split()
}


def _to_paho(packet_type: int, values: dict[str, Any] | None) -> Properties | None:
    if not values:
        return None
    properties = Properties(packet_type)
    for name, value in values.items():
        setattr(properties, _OURS[name], value)
    return properties


def _from_paho(properties: Properties | None) -> dict[str, Any]:
    return {
        ours: getattr(properties, theirs) for ours, theirs in _OURS.items() if hasattr(properties or None, theirs)
    }


class PahoClient(Client):
    def __init__(
        self,
        address: tuple[str, int],
        version: int,
        client_id: str,
        door: str = "tcp",
        cafile: str | None = None,
    ):
        super().__init__()
        self._address = address
        self._transport = "websockets" if door in ("ws", "wss") else "tcp"
        self._cafile = cafile
        self.version = version
        self.client_id = client_id
        self._paho: paho.Client | None = None
        self._answers: queue.Queue[tuple[str, int, Any]] = queue.Queue()

    def connect(
        self,
        *,
        clean: bool = True,
        session_expiry_s: int = 0,
        keep_alive_s: int = 60,
        will: Will | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Connack:
        v5 = self.version == V5
        self._paho = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
            clean_session=None if v5 else clean,
            reconnect_on_failure=False,
            transport=self._transport,
        )
        if self._transport == "websockets":
            client.ws_set_options(path="/mqtt")
        if self._cafile:
            client.tls_set(self._cafile)
        client.on_connect = lambda _c, _u, flags, reason, props: self._answers.put(
            ("connack", 0, (flags.session_present, reason, props))
        )
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._answers.put(("suback", mid, reasons))
        client.on_unsubscribe = lambda _c, _u, mid, reasons, _p: self._answers.put(("unsuback", mid, reasons))
        client.on_publish = lambda _c, _u, mid, reason, _p: self._answers.put(("published", mid, reason))
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        if will:
            client.will_set(
                will.topic, will.payload, will.qos, will.retain, _to_paho(PacketTypes.WILLMESSAGE, will.properties)
            )
        arguments: dict[str, Any] = {"keepalive": keep_alive_s}
        if v5:
            props = dict(properties or {})
            if session_expiry_s:
                props["session_expiry_interval"] = session_expiry_s
            arguments |= {"clean_start": clean, "properties": _to_paho(PacketTypes.CONNECT, props)}
        client.connect(*self._address, **arguments)
        client.loop_start()
        present, reason, props = self._answer("connack", 0)
        if reason.is_failure:
            raise Refused(reason.value)
        found = _from_paho(props)
        self.client_id = found.get("assigned_client_identifier", self.client_id)
        return Connack(present, reason.value, found)

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
        if self.version == V5:
            options = SubscribeOptions(qos, no_local, retain_as_published, retain_handling)
            props = _to_paho(PacketTypes.SUBSCRIBE, {"subscription_identifiers": identifier} if identifier else None)
            _, mid = self._paho.subscribe(topic_filter, options=options, properties=props)
        else:
            _, mid = self._paho.subscribe(topic_filter, qos)
        return self._answer("suback", mid)[0].value

    def unsubscribe(self, topic_filter: str) -> int:
        _, mid = self._paho.unsubscribe(topic_filter)
        reasons = self._answer("unsuback", mid)
        return reasons[0].value if reasons else 0

    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        ticket = self._paho.publish(topic, payload, qos, retain, _to_paho(PacketTypes.PUBLISH, properties))
        reason = self._answer("published", ticket.mid)
        return reason.value

    def disconnect(self) -> None:
        self._paho.disconnect()
        self.ended()
        self._paho.loop_stop()

    def abort(self) -> None:
        sock = self._paho.socket()
        if self._transport == "websockets":
            sock = sock._socket  # the wrapper around the socket proper
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)
        sock.close()
        self._paho.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.messages.put(
            Message(
                message.topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.dup,
                _from_paho(message.properties),
            )
        )

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        self.ends.put(End(reason.value if flags.is_disconnect_packet_from_server else None))

    def _answer(self, kind: str, mid: int) -> Any:
        """The callback for this request. The suite has one request open at a time per client, so none can be in front."""
        try:
            found = self._answers.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise NotHeard(f"{self.client_id}: no {kind} in {PATIENCE_S} s") from None
        assert found[:2] == (kind, mid), f"waited for {kind} {mid}, heard {found}"
        return found[2]
