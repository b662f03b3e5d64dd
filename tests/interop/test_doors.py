"""TLS, WebSocket and both, as doors: what only they can do wrong. That MQTT is the same behind each is shown by
`test_behaviours`, which runs over all of them."""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import hashlib
import http.server
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

import wire
from broker import TARGET, Broker, Quelea
from client import PATIENCE_S, Refused, wait_until
from conftest import NewClient, door_stream, running
from layered import LAST, PING, TEXT, TlsStream, WebSocketStream, frame
from mosquitto_clients import VERSIONS, Subscriber, publish
from own_client import OwnClient, TcpStream
from wire import V5, V311

pytestmark = pytest.mark.quelea_only("these doors are asked of our broker")

DOORS = ["tls", "ws", "wss"]
each_door = pytest.mark.parametrize("door", DOORS)


# --- Bytes one by one, and many at once -----------------------------------------------------------------------------------------


@each_door
@pytest.mark.parametrize("version", [V311, V5])
def test_client_may_send_one_byte_at_a_time(broker: Broker, topic: str, door: str, version: int) -> None:
    client = OwnClient(door_stream(broker, door, bytewise=True), version, topic)
    client.connect()
    client.subscribe(topic, 1)
    payload = bytes(range(256)) * 8
    client.publish(topic, payload, qos=1)
    assert client.message().payload == payload
    client.disconnect()


@each_door
def test_client_that_stops_reading_is_not_read(broker: Broker, topic: str, door: str) -> None:
    """Pings without end from a client that does not read: what it may send before it must wait is bounded."""
    client = OwnClient(door_stream(broker, door, receive_buffer_bytes=65536), V5, topic)
    client.connect()
    client.stream.stop_reading()
    bottom = client.stream
    while hasattr(bottom, "inner"):
        bottom = bottom.inner
    bottom._socket.settimeout(2.0)
    sent, pings = 0, b"\xc0\x00" * 4096
    before = broker.rss_bytes()
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            client.stream.send(pings)
            sent += len(pings)
    # Half of what was to be sent: buffers of one connection are far below, huge pages of the allocator are not.
    assert broker.rss_bytes() - before < 32 << 20
    bystander = OwnClient(door_stream(broker, door), V5, f"{topic}-bystander")
    bystander.connect()
    bystander.disconnect()
    client.abort()


@each_door
def test_subscriber_that_stops_reading_costs_little_and_goes_on(broker: Broker, topic: str, door: str) -> None:
    stalled = OwnClient(door_stream(broker, door, receive_buffer_bytes=131072), V5, topic)
    stalled.connect()
    stalled.subscribe(topic)
    stalled.stream.stop_reading()
    publisher = OwnClient(TcpStream(broker.tcp), V5, f"{topic}-publisher")
    publisher.connect()
    before = broker.rss_bytes()
    for number in range(1024):
        publisher.publish(topic, number.to_bytes(4, "big") + b"x" * 32768)
    publisher.publish(f"{topic}/end", b"", qos=1)
    assert broker.rss_bytes() - before < 24 << 20
    stalled.stream.read_again()
    publisher.publish(topic, b"the last", qos=1)
    numbers = []
    while (payload := stalled.message().payload) != b"the last":
        assert payload[4:] == b"x" * 32768
        numbers.append(int.from_bytes(payload[:4], "big"))
    assert numbers == sorted(numbers) and numbers[0] == 0


# --- Endings --------------------------------------------------------------------------------------------------------------------


@each_door
def test_refusal_is_heard(broker: Broker, topic: str, door: str) -> None:
    stream = door_stream(broker, door)
    client = OwnClient(stream, V5, topic)
    # A Will with a wildcard in its topic.
    with pytest.raises(Refused) as refused:
        client.connect(will=wire.Will(f"{topic}/#", b""))
    assert refused.value.reason >= 0x80
    assert client.end.wait(PATIENCE_S)
    if door == "ws":
        assert stream.closes in ([1000], [1002], [1008])
    else:
        tls = stream if door == "tls" else stream.inner
        wait_until("the broker says close_notify", lambda: tls.closed)


def test_every_door_says_good_bye_when_the_broker_is_told_to_stop(own_broker: Broker) -> None:
    streams = {door: door_stream(own_broker, door) for door in DOORS}
    clients = [OwnClient(stream, V5, door) for door, stream in streams.items()]
    for client in clients:
        client.connect()
    assert own_broker.stop() == 0
    assert [client.ended().reason for client in clients] == [0x8B] * len(DOORS)
    assert streams["ws"].closes == streams["wss"].closes == [1001]
    assert streams["tls"].closed and streams["wss"].inner.closed


@each_door
def test_will_is_published_when_the_stream_just_ends(
    broker: Broker, new_client: NewClient, topic: str, door: str
) -> None:
    watcher = new_client("own-tcp-5")
    watcher.connect()
    watcher.subscribe(topic, 1)
    stream = door_stream(broker, door)
    mortal = OwnClient(stream, V5, f"{topic}-mortal")
    mortal.connect(will=wire.Will(topic, b"gone", 1))
    bottom = stream
    while hasattr(bottom, "inner"):
        bottom = bottom.inner
    bottom.finish()  # a FIN without the words of TLS or WebSocket in front of it
    assert watcher.message().payload == b"gone"


# --- TLS ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(broker: Quelea, topic: str, tls: ssl.TLSVersion) -> None:
    stream = TlsStream(TcpStream(broker.tls), broker.cafile, tls)
    client = OwnClient(stream, V5, topic)
    client.connect()
    assert stream.tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[tls.name]
    client.disconnect()


@pytest.mark.parametrize("tls_version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquitto_clients_speak_tls(broker: Quelea, topic: str, tls_version: str, version: str, qos: int) -> None:
    tls = ["--cafile", broker.cafile, "--tls-version", tls_version]
    subscriber = Subscriber(broker.tls, version, *tls, "-t", topic, "-q", f"{qos}")
    try:
        payload = b"x" * 100_000
        publish(broker.tls, version, *tls, "-t", topic, "-q", f"{qos}", "-s", payload=payload)
        heard = subscriber.heard()
        assert (heard.payload, heard.qos) == (payload, qos)
    finally:
        subscriber.kill()


def test_mosquitto_does_not_trust_a_certificate_that_it_does_not_know(broker: Quelea, tmp_path: Path) -> None:
    with running(tmp_path) as other, pytest.raises(AssertionError, match="mosquitto_pub"):
        publish(broker.tls, "mqttv5", "--cafile", other.cafile, "-t", "t", "-m", "x")


Issuer = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def issue(directory: Path, name: str, issuer: Issuer | None) -> Issuer:
    """Writes a certificate and its key; without an issuer, that of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return subject, key


def test_client_certificate_is_required_where_the_listener_says_so(tmp_path: Path) -> None:
    issue(tmp_path, "client", issue(tmp_path, "ca", None))
    listener = (
        f'[[listeners]]\ntype = "tls"\nlisten = "127.0.0.1:0"\nclient_certificates = "required"\n'
        f'client_ca = "{tmp_path}/ca.pem"\n'
    )
    with running(tmp_path, tail=listener) as broker:
        _, own = broker.all_listening("TLS")
        shown = ["--cert", f"{tmp_path}/client.pem", "--key", f"{tmp_path}/client.key"]
        publish(own, "mqttv5", "--cafile", broker.cafile, *shown, "-t", "t", "-m", "x")
        with pytest.raises(AssertionError, match="mosquitto_pub"):
            publish(own, "mqttv5", "--cafile", broker.cafile, "-t", "t", "-m", "x")
        assert broker.metric("quelea_tls_handshakes_failed_total") == 1


# --- WebSocket ------------------------------------------------------------------------------------------------------------------


def http_answer(address: tuple[str, int], request: str) -> str:
    with socket.create_connection(address, PATIENCE_S) as stream:
        stream.sendall(request.encode())
        answer = b""
        while piece := stream.recv(4096):
            answer += piece
    return answer.decode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /mqtt HTTP/1.1\r\nHost: x\r\nCookie: " + "x" * 9000, 431),
        ("not HTTP at all\r\n\r\n", 400),
    ],
)
def test_wrong_requests_are_answered(broker: Quelea, request_: str, status: int) -> None:
    assert http_answer(broker.ws, request_).startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize("door", ["ws", "wss"])
def test_ping_is_answered_and_text_is_not_taken(broker: Broker, topic: str, door: str) -> None:
    stream = door_stream(broker, door)
    client = OwnClient(stream, V5, topic)
    client.connect()
    stream.inner.send(frame(LAST | PING, b"are you there"))
    wait_until("a pong", lambda: stream.pongs == [b"are you there"])
    stream.inner.send(frame(LAST | TEXT, b"hello"))
    assert client.end.wait(PATIENCE_S)
    assert stream.closes == [1003]


def test_close_is_sent_back(broker: Quelea, topic: str) -> None:
    stream = WebSocketStream(TcpStream(broker.ws))
    client = OwnClient(stream, V5, topic)
    client.connect()
    stream.inner.send(frame(LAST | 8, struct.pack("!H", 4321) + b"enough"))
    assert client.end.wait(PATIENCE_S)
    assert stream.closes == [4321]


def test_listener_has_its_own_path_and_its_own_sites(tmp_path: Path) -> None:
    listener = (
        '[[listeners]]\ntype = "ws"\nlisten = "127.0.0.1:0"\npath = "/socket"\norigins = ["https://example.org"]\n'
    )
    with running(tmp_path, tail=listener) as broker:
        _, own = broker.all_listening("WS")
        OwnClient(WebSocketStream(TcpStream(own), "/socket"), V5, "no browser").connect()
        page = ("Origin: https://example.org",)
        OwnClient(WebSocketStream(TcpStream(own), "/socket", page), V5, "its page").connect()
        with pytest.raises(AssertionError, match="403"):
            OwnClient(WebSocketStream(TcpStream(own), "/socket", ("Origin: https://evil.example",)), V5, "x")
        with pytest.raises(AssertionError, match="404"):
            OwnClient(WebSocketStream(TcpStream(own), "/mqtt"), V5, "x")


# --- PROXY protocol -------------------------------------------------------------------------------------------------------------


def test_proxy_header_is_required_where_the_listener_says_so(tmp_path: Path) -> None:
    listener = '[[listeners]]\ntype = "tls"\nlisten = "127.0.0.1:0"\nproxy_protocol = "required"\n'
    with running(tmp_path, tail=listener) as broker:
        _, own = broker.all_listening("TLS")
        for header in (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8883\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1, 0x9C, 0x40, 0x22, 0xB3]),
        ):
            stream = TcpStream(own)
            stream.send(header)
            client = OwnClient(TlsStream(stream, broker.cafile), V5, "behind a proxy")
            client.connect()
            client.disconnect()
        with pytest.raises(ssl.SSLError):
            OwnClient(TlsStream(TcpStream(own), broker.cafile), V5, "directly")
        assert broker.metric("quelea_proxy_refused_total") == 1


# --- A browser ------------------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><title>interop</title><script src="mqtt.min.js"></script><script>
const query = new URLSearchParams(location.search)
const client = mqtt.connect(query.get('url'), { protocolVersion: 5, clientId: 'browser', reconnectPeriod: 0 })
client.on('connect', () => client.subscribe(query.get('topic') + '/down', { qos: 2 }, () =>
  client.publish(query.get('topic') + '/up', 'ready', { qos: 1 })))
client.on('message', (topic, payload) => client.publish(query.get('topic') + '/up', payload, { qos: 2 }))
</script>"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The address of a page with mqtt.js in it, as npm has brought it."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    shutil.copy(TARGET / "interop-node" / "node_modules" / "mqtt" / "dist" / "mqtt.min.js", site)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("door", ["ws", "wss"])
def test_browser_page_speaks_mqtt(
    broker: Quelea, new_client: NewClient, page: str, tmp_path: Path, topic: str, door: str
) -> None:
    """mqtt.js in headless Chromium. What happens in the page is seen by what it publishes."""
    certificate = x509.load_pem_x509_certificate(Path(broker.cafile).read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    watcher = new_client("own-tcp-5")
    watcher.connect()
    watcher.subscribe(f"{topic}/up", 1)
    address = broker.door(door)
    url = f"{page}?topic={topic}&url={door}://127.0.0.1:{address[1]}/mqtt"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/chromium"]
    command += [f"--ignore-certificate-errors-spki-list={pin}", "--remote-debugging-port=0", url]
    log = (tmp_path / "chromium.log").open("wb")
    browser = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        assert watcher.message().payload == b"ready"
        for size in (0, 1, 125, 126, 65_536, 300_000):
            payload = (b"quelea" * (size // 6 + 1))[:size]
            watcher.publish(f"{topic}/down", payload, qos=2)
            assert watcher.message().payload == payload
    finally:
        browser.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            browser.wait(PATIENCE_S)
        browser.kill()
        log.close()
