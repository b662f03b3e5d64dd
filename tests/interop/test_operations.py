"""What an operator meets: the command line, configuration errors, ports in use, signals, certificates."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker import Broker, Quelea, config, http_get, quelea_binary
from client import PATIENCE_S, wait_until
from conftest import KINDS, NewClient, running
from metrics import SESSIONS_CONNECTED
from mqtt_quic import QuicLink, QuicStream, connected_stream
from own_client import OwnClient, TcpStream
from wire import V5, Will

pytestmark = pytest.mark.quelea_only("the operator's side is the broker's own")

OWN_KINDS = [kind for kind in KINDS if kind.startswith(("own", "quic"))]


@pytest.fixture
def broker(own_broker: Quelea) -> Quelea:
    return own_broker


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the binary to its end."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("QUELEA_")}
    return subprocess.run(
        [str(quelea_binary()), *arguments],
        env=variables | {"NO_COLOR": "1"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


# --- The command line -------------------------------------------------------------------------------------------------------------


def test_version_is_one_line() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"quelea \d+\.\d+\.\d+\S*\n", done.stdout)


def test_help_shows_options_and_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("--config", "--print-config", "check", "Examples", "QUELEA_"):
        assert word in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["no-such-command"], ["--shards", "many"]])
def test_wrong_usage_is_exit_code_2_and_names_the_word(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


def test_printed_configuration_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "quelea.toml"
    file.write_text(config(tmp_path))
    first = run("--config", str(file), "--print-config")
    assert first.returncode == 0, first.stderr
    again = tmp_path / "again.toml"
    again.write_text(first.stdout)
    assert run("check", "--config", str(again)).returncode == 0
    second = run("--config", str(again), "--print-config")
    assert settings_of(second.stdout) == settings_of(first.stdout)


def settings_of(printed: str) -> list[str]:
    """The lines without what names the origin of a value, which differs by file."""
    return [line.split("#")[0].strip() for line in printed.splitlines() if line.split("#")[0].strip()]


def test_good_file_passes_the_check(tmp_path: Path) -> None:
    file = tmp_path / "quelea.toml"
    file.write_text(config(tmp_path))
    done = run("check", "--config", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[tcp]\nlisten = ['127.0.0.1:1883']\nlissen = 1\n", 3, ["lissen", "listen"]),
        ("[tpc]\n", 1, ["tpc", "tcp"]),
        ("\n[mqtt]\npacket_max = '64 apples'\n", 3, ["packet_max", "64 apples"]),
        ("[broker]\nshards = 0\n", 2, ["shards"]),
        ("[broker]\ndrain_timeout = 10\n", 2, ["drain_timeout", "expected"]),
        ("[mqtt]\n\n\nreceive_maximum = 70000\n", 4, ["receive_maximum", "65535"]),
        ("[tcp]\nlisten = ['localhost']\n", 2, ["tcp.listen"]),
        ("[tcp]\nlisten = ['0.0.0.0:1883']\n", 2, ["tcp.listen", "allow_anonymous = true"]),
        ("[tcp\n", 1, []),
        ("\n".join(f"[{name}]\nlisten = []" for name in ("tcp", "quic", "tls", "ws", "wss")), 2, ["tcp.listen"]),
    ],
)
def test_bad_file_fails_the_check_and_names_file_line_and_key(
    tmp_path: Path, text: str, line: int, words: list[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    for arguments in (["check", "--config", str(file)], ["--config", str(file)]):
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert f"{file}:{line}" in done.stderr
        for word in words:
            assert word in done.stderr


def test_missing_file_is_named(tmp_path: Path) -> None:
    done = run("check", "--config", str(tmp_path / "missing.toml"))
    assert done.returncode == 2
    assert "missing.toml" in done.stderr


def test_bad_environment_variable_is_named() -> None:
    done = run("check", environment={"QUELEA_MQTT__PACKET_MAX": "lots"})
    assert done.returncode == 2
    assert "QUELEA_MQTT__PACKET_MAX" in done.stderr


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "quelea.toml"
    file.write_text("[mqtt]\nreceive_maximum = 7\n")
    done = run("--config", str(file), "--print-config", environment={"QUELEA_MQTT__RECEIVE_MAXIMUM": "9"})
    assert re.search(r"receive_maximum = 9\b", done.stdout)


# --- Start ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "quic", "admin"])
def test_port_in_use_is_an_error_that_names_address_owner_and_flag(
    broker: Quelea, tmp_path: Path, transport: str
) -> None:
    host, port = getattr(broker, transport)
    second = tmp_path / "second"
    second.mkdir()
    file = second / "quelea.toml"
    file.write_text(config(second, {transport: {"listen": [f"{host}:{port}"]}}))
    done = run("--config", str(file))
    assert done.returncode == 1
    said = done.stderr + done.stdout
    assert f"{host}:{port}" in said
    assert f"--{transport}-listen" in said
    assert "quelea" in said and str(broker.process.pid) in said, f"no guess at the owner: {said}"


def test_start_waits_for_the_sockets_of_a_broker_that_was_killed(tmp_path: Path) -> None:
    first = Quelea(tmp_path)
    addresses = {name: {"listen": [f"127.0.0.1:{getattr(first, name)[1]}"]} for name in ("quic", "tcp", "tls")}
    last: Broker = first
    for number in range(5):
        directory = tmp_path / str(number)
        directory.mkdir()
        file = directory / "quelea.toml"
        file.write_text(config(directory, addresses))
        last.destroy()
        last = Broker([str(quelea_binary()), "--config", str(file)], directory)
        try:
            last.wait_for_log("Try")
        except AssertionError:
            last.destroy()
            raise
    last.destroy()


def test_second_broker_in_the_same_data_directory_is_refused(broker: Quelea) -> None:
    done = run("--config", str(broker.config_path))
    assert done.returncode == 1
    assert str(broker.process.pid) in done.stderr + done.stdout
    assert "--data-dir" in done.stderr + done.stdout


def test_start_prints_what_listens_the_fingerprint_and_a_command(broker: Quelea) -> None:
    printed = broker.log()
    for host, port in (broker.tcp, broker.quic, broker.admin):
        assert f"{host}:{port}" in printed
    assert "mosquitto_" in printed
    link = QuicLink(broker.quic)
    link.wait_for_handshake()
    assert link.fingerprint() in printed.lower().replace(":", "")
    link.close()


def test_log_can_be_json(tmp_path: Path) -> None:
    with running(tmp_path, {"log": {"format": "json"}}) as broker:
        OwnClient(TcpStream(broker.tcp), V5, "json").connect()
    lines = [line for line in broker.log().splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        json.loads(line)


def test_keys_are_for_the_owner_alone(broker: Quelea) -> None:
    data = broker.directory / "data"
    secrets = {"reset.key", "token.key", "development.pem"}
    assert secrets <= {path.name for path in data.iterdir()}
    open_to_all = {"development.crt.pem"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir() if path.name not in open_to_all}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_health_is_told_over_http(broker: Quelea) -> None:
    assert http_get(broker.admin, "/healthz")
    with pytest.raises(urllib.error.HTTPError) as missing:
        http_get(broker.admin, "/no-such-page")
    assert missing.value.code == 404


# --- End --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_signal_tells_every_client_and_ends_with_0(
    new_client: NewClient, broker: Quelea, signal_: signal.Signals
) -> None:
    clients = [new_client(kind) for kind in KINDS]
    for client in clients:
        client.connect()
    assert broker.stop(signal_) == 0
    for client in clients:
        reason = client.ended().reason
        assert reason == (0x8B if client.version == V5 else None), client.client_id


def test_signal_said_twice_at_once_is_one(new_client: NewClient, broker: Quelea) -> None:
    client = new_client("own-tcp-5")
    client.connect()
    # As timeout(1) does it: to the process, then to its group.
    broker.process.send_signal(signal.SIGTERM)
    assert broker.stop(signal.SIGTERM) == 0
    assert client.ended().reason == 0x8B


def test_drain_ends_a_quic_stream_by_fin(new_client: NewClient, broker: Quelea) -> None:
    clients = [new_client("quic-5"), new_client("quic-3.1.1")]
    for client in clients:
        client.connect()
    assert broker.stop() == 0
    for client in clients:
        assert isinstance(client, OwnClient) and isinstance(client.stream, QuicStream)
        client.ended()
        assert client.stream.fin.is_set()


def test_drain_does_not_wait_for_a_client_that_never_reads(broker: Quelea, topic: str) -> None:
    stalled = OwnClient(TcpStream(broker.tcp, receive_buffer_bytes=4096), V5, "stalled")
    stalled.connect()
    stalled.subscribe(topic)
    stalled.stream.stop_reading()
    publisher = OwnClient(TcpStream(broker.tcp), V5, "publisher")
    publisher.connect()
    for _ in range(64):
        publisher.publish(topic, b"x" * 100_000)
    publisher.ping()
    # The configuration of the suite drains for 5 s.
    assert broker.stop(timeout_s=20) == 0
    stalled.abort()


def test_wills_are_published_when_the_broker_drains(new_client: NewClient, broker: Quelea) -> None:
    # Nobody is left to hear them, but the broker must end all the same.
    for number in range(10):
        client = new_client("own-tcp-5")
        client.connect(will=Will(f"wills/{number}", b"gone", 1))
    assert broker.stop() == 0


def test_certificate_outlives_a_restart(tmp_path: Path) -> None:
    fingerprints = []
    for _ in range(2):
        with running(tmp_path) as broker:
            link = QuicLink(broker.quic)
            link.wait_for_handshake()
            fingerprints.append(link.fingerprint())
            link.close()
    assert fingerprints[0] == fingerprints[1]


# --- A new certificate --------------------------------------------------------------------------------------------------------------


def write_certificate(directory: Path, name: str) -> str:
    """Writes `cert.pem` and `key.pem`, valid for a day, and returns the fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(minutes=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (directory / "key.pem").chmod(0o600)
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


@pytest.fixture
def with_certificate(tmp_path: Path) -> Iterator[tuple[Quelea, str]]:
    """A broker with a certificate of ours, and its fingerprint."""
    first = write_certificate(tmp_path, "first")
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    with running(tmp_path, {"tls": tls}) as broker:
        yield broker, first


def shown_fingerprint(broker: Quelea) -> str:
    link = QuicLink(broker.quic)
    link.wait_for_handshake()
    link.close()
    return link.fingerprint()


def test_sighup_swaps_the_certificate_for_new_connections(with_certificate: tuple[Quelea, str], topic: str) -> None:
    broker, first = with_certificate
    old = OwnClient(connected_stream(broker.quic), V5, "old")
    old.connect()
    old.subscribe(topic, 1)
    assert old.stream.link.fingerprint() == first
    second = write_certificate(broker.directory, "second")
    assert shown_fingerprint(broker) == first, "taken without being told"
    broker.process.send_signal(signal.SIGHUP)
    wait_until("the new certificate is shown", lambda: shown_fingerprint(broker) == second)
    new = OwnClient(connected_stream(broker.quic), V5, "new")
    new.connect()
    new.publish(topic, b"x", qos=1)
    assert old.message().payload == b"x"


@pytest.mark.parametrize("damage", ["no file", "no certificate", "key of another"])
def test_sighup_keeps_the_old_certificate_if_the_new_one_is_bad(
    with_certificate: tuple[Quelea, str], damage: str
) -> None:
    broker, first = with_certificate
    directory = broker.directory
    match damage:
        case "no file":
            (directory / "cert.pem").unlink()
        case "no certificate":
            (directory / "cert.pem").write_text("hello\n")
        case "key of another":
            key = (directory / "key.pem").read_bytes()
            write_certificate(directory, "second")
            (directory / "key.pem").write_bytes(key)
    printed = len(broker.log())
    broker.process.send_signal(signal.SIGHUP)
    wait_until("the broker says what is wrong", lambda: re.search("cert.pem|key.pem", broker.log()[printed:]))
    assert shown_fingerprint(broker) == first


def test_sighup_disturbs_no_client(new_client: NewClient, broker: Quelea) -> None:
    clients = [new_client(kind) for kind in OWN_KINDS]
    for client in clients:
        client.connect()
    for _ in range(3):
        broker.process.send_signal(signal.SIGHUP)
        for client in clients:
            client.ping()
    assert broker.metric(SESSIONS_CONNECTED) == len(clients)
