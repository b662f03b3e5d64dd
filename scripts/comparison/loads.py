"""The loads, and how one broker is measured under one of them."""

import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass

from comparison.brokers import Running

SCHEMES = {"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss", "quic": "quic"}
ENCRYPTED = {"tls", "wss", "quic"}


@dataclass(frozen=True)
class Shape:
    words: str
    # Publications per second when paced.
    per_s: int
    # Messages of each publisher under way when saturated: fewer for each subscriber than the queue of any broker holds.
    under_way: int


SHAPES = {
    "fan-out 1→50": Shape("fan-out --publishers 1 --subscribers 50", 400, 500),
    "fan-in 50→1": Shape("fan-in --publishers 50 --subscribers 1", 5_000, 20),
    "50 pairs": Shape("pair --pairs 50", 5_000, 100),
    "pair 1→1": Shape("pair --pairs 1", 1_000, 500),
}
PAIR = "pair 1→1"
CONNECTIONS = "connections"
WARM_UP_S = 0.3
# A latency needs more messages than a cost.
LATENCY_SECONDS_FACTOR = 3
# Starting a broker, connecting, warm-up, late messages, the end: what a measurement takes besides its seconds.
OVERHEAD_S = 1.0
# The generator measures itself first: ten rows of a second, each with its warm-up and its end.
SELF_TEST_S = 18.0


@dataclass(frozen=True)
class Case:
    """One load. `pace`: paced, saturated, or that of connections."""

    shape: str
    pace: str
    qos: int

    def name(self):
        return self.shape if self.shape == CONNECTIONS else f"{self.shape}, QoS {self.qos}"

    def seconds(self, arguments):
        if self.shape == CONNECTIONS:
            return arguments.connections / arguments.connect_rate + 1
        factor = LATENCY_SECONDS_FACTOR if self.shape == PAIR and self.pace == "paced" else 1
        return factor * arguments.seconds


def cases(arguments):
    """All loads that were asked for."""
    found = []
    for shape in SHAPES:
        if arguments.shape in shape:
            found += [Case(shape, pace, qos) for pace in arguments.pace for qos in arguments.qos]
    if arguments.connections and arguments.shape in CONNECTIONS:
        found.append(Case(CONNECTIONS, "connections", 0))
    return found


def measure(broker, door, case, arguments):
    """One broker under one load: the document of quelea-load, or the reason why there is none."""
    is_realtime = arguments.realtime and case.pace != "saturated"
    with tempfile.TemporaryDirectory(prefix="compare-") as directory, realtime(is_realtime), Running(broker, door, directory) as running:
        failure = running.becomes_ready()
        if failure is None:
            document = generate(running, door, case, arguments)
            if any(level.get("lost") for level in document.get("counts", [])):
                document["drops"] = broker.drops()
            return document
        return {"failure": failure}


@contextlib.contextmanager
def realtime(wanted):
    """Whatever is started meanwhile has SCHED_RR: other work does not come between."""
    if wanted:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        if wanted:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def generate(running, door, case, arguments):
    words = [arguments.load, *words_of(case, arguments)]
    # TLS wants a name; it may have an IPv6 address, where nobody listens.
    host = "localhost" if door in ENCRYPTED else "127.0.0.1"
    words += [f"{SCHEMES[door]}://{host}:{running.port}", "--bind", "127.0.0.1"]
    words += ["--insecure"] if door in ENCRYPTED else []
    words += ["--connect-timeout", "3s", "--io", arguments.io, "--pid", str(running.process.pid), "--json", "-", "--quiet"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=case.seconds(arguments) + 60)
    except subprocess.TimeoutExpired:
        return {"failure": "the generator did not come to an end"}
    if not done.stdout:
        return {"failure": done.stderr.strip()[-300:]}
    return without_encodings(json.loads(done.stdout))


def words_of(case, arguments):
    if case.shape == CONNECTIONS:
        return ["conn", "-n", str(arguments.connections), "--connect-rate", str(arguments.connect_rate), "--hold", "1s"]
    shape = SHAPES[case.shape]
    words = [*shape.words.split(), "--qos", str(case.qos), "--payload", "64", "--drain", "5s", "--connect-rate", "1000"]
    words += ["--duration", f"{case.seconds(arguments)}s", "--warm-up", f"{WARM_UP_S}s"]
    if case.pace == "paced":
        return [*words, "--rate", str(shape.per_s)]
    return [*words, "--rate", "max", "--window", str(shape.under_way), "--in-flight", str(shape.under_way)]


def without_encodings(document):
    """Without the encoded histograms: they are most of the document, and nothing here reads them."""
    if isinstance(document, dict):
        return {key: without_encodings(value) for key, value in document.items() if key != "hdr"}
    if isinstance(document, list):
        return [without_encodings(item) for item in document]
    return document


def self_test(arguments):
    """The latency floor and the ceiling of the generator itself."""
    words = [arguments.load, "self-test", "--io", arguments.io, "--duration", "1s", "--json", "-"]
    try:
        with realtime(arguments.realtime):
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return {"failure": "it did not come to an end"}
    return without_encodings(json.loads(done.stdout)) if done.stdout else {"failure": done.stderr.strip()[-300:]}


def figures(document):
    """What the tables show of one measurement; `None` if nothing was measured."""
    if "failure" in document or not document["brokers"]:
        return None
    broker, kernel = document["brokers"][0], document["kernel"]
    found = {"bottleneck": document["bottleneck"], "lost": 0, "expected": 0, "reasons": document["outcome"]["reasons"]}
    found["drops"] = document.get("drops", {})
    if document["command"] == "conn":
        links = document["connections"]
        if not links["ready"]:
            return None
        return found | {
            "us": broker["cpu_us_per_connection"],
            "resident": broker["resident_per_connection"],
            "slab": kernel["slab_per_connection"],
            "buffers": kernel["buffers_per_connection"],
            "p50": links["connect"]["p50_ns"] / 1e3,
            "p99": links["connect"]["p99_ns"] / 1e3,
        }
    if not broker["arrived"] or not broker["cpu_us_per_delivery"]:
        return None
    counts, latency = document["counts"][0], document["latency"]["delivery"][0]["histogram"]
    return found | {
        "us": broker["cpu_us_per_delivery"],
        "per_cpu_s": broker["deliveries_per_cpu_s"],
        "per_s": document["window"]["arrived_per_s"],
        "p50": latency["p50_ns"] / 1e3,
        "p99": latency["p99_ns"] / 1e3,
        "lost": counts["lost"],
        "expected": counts["expected"],
    }
