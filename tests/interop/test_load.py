"""The load generator against the binary: what it counts is what happened, over TCP and over QUIC."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import metrics
from broker import TARGET, Quelea
from conftest import running
from test_doors import issue

pytestmark = pytest.mark.quelea_only("the load generator has tests of its own against mosquitto")

DOORS = ["tcp", "quic"]
PATIENCE_S = 60


def load_binary() -> Path:
    """`QUELEA_LOAD_BIN`, or the newer of the release and the debug build."""
    if named := os.environ.get("QUELEA_LOAD_BIN"):
        return Path(named)
    built = [path for path in (TARGET / "release" / "quelea-load", TARGET / "debug" / "quelea-load") if path.exists()]
    assert built, "no binary: run `cargo build --bin quelea-load`, or name one with QUELEA_LOAD_BIN"
    return max(built, key=lambda path: path.stat().st_mtime)


def load(broker: Quelea, door: str, words: str) -> dict[str, Any]:
    """A run against one door of the broker, as its JSON document."""
    if door == "tcp":
        url = f"mqtt://127.0.0.1:{broker.tcp[1]}"
        trust = []
    else:
        url = f"quic://localhost:{broker.quic[1]}"
        trust = ["--bind", "127.0.0.1", "--cafile", str(broker.directory / "data" / "development.crt.pem")]
    command, *rest = words.split()
    return report_of([command, url, *trust, *rest])


def report_of(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [str(load_binary()), *words, "--json", "-", "--quiet"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["outcome"]["exit_code"] == done.returncode
    return report


def counts(report: dict[str, Any], qos: int) -> dict[str, int]:
    return next(level for level in report["counts"] if level["qos"] == qos)


@pytest.mark.parametrize("door", DOORS)
def test_every_level_is_counted_exactly(broker: Quelea, door: str) -> None:
    report = load(broker, door, "pair --pairs 6 --rate 600 --qos 0,1,2 --warm-up 200ms --duration 1s --threads 2")
    assert report["outcome"]["ok"], report["outcome"]
    for qos in (0, 1, 2):
        level = counts(report, qos)
        for name in ("published", "confirmed", "expected", "received"):
            assert level[name] == 240, (qos, name, level)
        for name in ("lost", "duplicated", "disordered", "unsent", "refused"):
            assert level[name] == 0, (qos, name, level)
    assert report["connections"]["ready"] == 12


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("shape", "copies"),
    [
        ("fan-out --subscribers 10", 10),
        ("fan-in --publishers 10 --mqtt 3.1.1", 1),
        ("share --publishers 5 --members 3 --groups 2", 2),
    ],
)
def test_every_shape_gets_what_it_must(broker: Quelea, door: str, shape: str, copies: int) -> None:
    report = load(broker, door, f"{shape} --rate 100 --qos 1 --warm-up 0s --duration 1s --threads 2")
    assert report["outcome"]["ok"], report["outcome"]
    level = counts(report, 1)
    assert (level["confirmed"], level["expected"], level["received"]) == (100, 100 * copies, 100 * copies)


def test_what_the_broker_drops_is_what_the_generator_misses(tmp_path: Path) -> None:
    # A group with room for a few messages, and far more QoS 0 than its member can be given at once.
    with running(tmp_path, {"mqtt": {"queue_messages_max": 4}}) as broker:
        shape = "share --publishers 20 --groups 1 --members 1"
        words = f"{shape} --rate max --window 0 --payload 4KiB --warm-up 0s --duration 2s --drain 5s"
        level = counts(load(broker, "tcp", words), 0)
        dropped = broker.metric(metrics.DROPPED_QOS0_GROUP) + broker.metric(metrics.DROPPED_QOS0_FULL)
        assert level["lost"] > 0, level
        assert level["lost"] == dropped, level
        assert level["duplicated"] == 0, level


@pytest.mark.parametrize(("kind", "scheme"), [("tls", "mqtts"), ("wss", "wss"), ("quic", "quic")])
def test_a_listener_that_demands_a_certificate_is_shown_one(tmp_path: Path, kind: str, scheme: str) -> None:
    issue(tmp_path, "client", issue(tmp_path, "ca", None))
    listener = (
        f'[[listeners]]\ntype = "{kind}"\nlisten = "127.0.0.1:0"\nclient_certificates = "required"\n'
        f'client_ca = "{tmp_path}/ca.pem"\n'
    )
    with running(tmp_path, tail=listener) as broker:
        _, (_, port) = broker.all_listening(kind.upper())
        reach = [f"{scheme}://localhost:{port}", "--bind", "127.0.0.1", "--cafile", broker.cafile]
        shown = ["--cert", f"{tmp_path}/client.pem", "--key", f"{tmp_path}/client.key"]
        entered = report_of(["pair", *reach, *shown, *"--qos 1 --rate 100 --warm-up 0s --duration 500ms".split()])
        assert entered["outcome"]["ok"], entered["outcome"]
        assert counts(entered, 1)["received"] == 50
        refused = report_of(["conn", *reach, "-n", "3"])
        assert refused["outcome"]["reasons"] == ["3 of 3 clients could not connect"]
        demanded = "the broker demands a client certificate: give one by --cert and --key"
        assert refused["connections"]["errors"] == [{"reason": demanded, "count": 3}]


@pytest.mark.parametrize("door", DOORS)
def test_the_cost_per_delivery_is_the_brokers_own(broker: Quelea, door: str) -> None:
    words = f"fan-out --subscribers 10 --rate 200 --warm-up 200ms --duration 2s --pid {broker.process.pid}"
    watched = load(broker, door, words)["brokers"][0]
    assert 3500 <= watched["arrived"] <= 4500
    assert 0 < watched["cpu_us_per_delivery"] < 10_000
    assert watched["resident_to"] <= broker.rss_peak_bytes()


@pytest.mark.parametrize("door", DOORS)
def test_connections_are_held_and_gone_afterwards(broker: Quelea, door: str) -> None:
    report = load(broker, door, "conn -n 60 --connect-rate 300 --hold 500ms --threads 2")
    assert report["outcome"]["ok"], report["outcome"]
    assert (report["connections"]["ready"], report["connections"]["lost"]) == (60, 0)
    assert report["connections"]["connect"]["count"] == 60
