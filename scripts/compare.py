#!/usr/bin/env python3
"""What a delivered message costs a broker, and how long it takes: Quelea beside other brokers in one run.

    cargo build --release -p quelea -p quelea-load
    scripts/compare.py [--doors tcp tls ws quic] [--trials 3] [--realtime] [--markdown FILE] [--json FILE]

The load is made by quelea-load: fan-out 1→50, fan-in 50→1 and 50 pairs, QoS 0 and 1, each paced (all brokers get the same
load, far below what they could carry) and saturated (a closed loop); and one pair at 1,000 messages/s for the latencies.
Brokers take turns within a trial, each measurement with a fresh broker, a fresh data directory and free loopback ports.

CPU is user and system time of the broker's process within the measured window, by delivered messages that arrived in it.
Trust ratios within one run, not absolute times, of a machine that is shared; `--realtime` (as root) puts broker and generator at
SCHED_RR, so that other work does not come between. A row whose generator says that it was the bottleneck has a star.

Brokers, by name: mosquitto; quelea, with -Nshard and -epoll or -uring behind it (quelea-1shard-epoll); mqttv5 and rmqttd, if
their programs are named by options, over QUIC. What a broker cannot do (a door, a back end) is left out of its rows.
"""

import argparse
import datetime
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

SHAPES = {
    # words for quelea-load; publications per second when paced
    "fan-out 1→50": ("fan-out --publishers 1 --subscribers 50", 400),
    "fan-in 50→1": ("fan-in --publishers 50 --subscribers 1", 5_000),
    "50 pairs": ("pair --pairs 50", 5_000),
    "pair 1→1": ("pair --pairs 1", 1_000),
}
LATENCY_SHAPE = "pair 1→1"
SCHEMES = {"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss", "quic": "quic"}
PATIENCE_S = 20
WARM_UP_S = 1.0


class Stopped(Exception):
    """The time given to the whole run is over."""


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(directory):
    """An end-entity certificate for localhost, and its key; RSA would cost every broker ten times as much per handshake."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)  # mosquitto gives up root before it reads it
    return certificate, key


class Broker:
    """One kind of broker, as named on the command line."""

    def __init__(self, name, program):
        self.name, self.program = name, program

    def doors(self):
        """Kinds of listeners that it can have."""
        raise NotImplementedError

    def command(self, directory, door, port):
        raise NotImplementedError

    def environment(self):
        return {}


class Mosquitto(Broker):
    def doors(self):
        return {"tcp", "tls", "ws", "wss"}

    def command(self, directory, door, port):
        certificate, key = make_certificate(directory) if door in ("tls", "wss") else (None, None)
        lines = [
            "allow_anonymous true", "persistence false", "log_type error",
            # No limit, so that it loses nothing here.
            "max_queued_messages 0", "max_inflight_messages 0",
            f"listener {port} 127.0.0.1",
        ]  # fmt: skip
        lines += ["protocol websockets"] if door in ("ws", "wss") else []
        lines += [f"certfile {certificate}", f"keyfile {key}"] if certificate else []
        config = directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-c", config]


class Quelea(Broker):
    def __init__(self, name, program):
        super().__init__(name, program)
        words = name.split("-")[1:]
        self.shards = next((word.removesuffix("shard") for word in words if word.endswith("shard")), "auto")
        self.backend = next(({"epoll": "epoll", "uring": "io_uring"}[word] for word in words if word in ("epoll", "uring")), None)
        printed = subprocess.run([program, "--print-config"], capture_output=True, text=True, check=True).stdout
        self.known = tomllib.loads(printed)

    def doors(self):
        if self.backend and "io" not in self.known:
            return set()
        found = {"tcp", "quic"}
        found |= {door for door in ("tls", "ws", "wss") if "listen" in self.known.get(door, {})}
        return found

    def command(self, directory, door, port):
        sections = {name: {"listen": []} for name in ("quic", "tcp", "tls", "ws", "wss") if "listen" in self.known.get(name, {})}
        sections[door]["listen"] = [f"127.0.0.1:{port}"]
        sections |= {
            "broker": {"data_dir": str(directory / "state"), "shards": self.shards if self.shards == "auto" else int(self.shards)},
            "admin": {"listen": []},
            "log": {"level": "error"},
        }
        if self.backend:
            sections["io"] = {"backend": self.backend}
        config = directory / "quelea.toml"
        with config.open("w") as file:
            for name, keys in sections.items():
                file.write(f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
        return [self.program, "--config", config]


class Mqttv5(Broker):
    """The broker of mqttv5-cli."""

    def doors(self):
        return {"quic"}

    def command(self, directory, door, port):
        certificate, key = make_certificate(directory)
        return [
            self.program, "broker", "--allow-anonymous", "--host", f"127.0.0.1:{free_port()}", "--quic-host", f"127.0.0.1:{port}",
            "--tls-cert", certificate, "--tls-key", key, "--storage-backend", "memory",
        ]  # fmt: skip


class Rmqttd(Broker):
    def doors(self):
        return {"quic"}

    def command(self, directory, door, port):
        certificate, key = make_certificate(directory)
        config = directory / "rmqtt.toml"
        config.write_text(
            f'[listener.tcp.external]\naddr = "127.0.0.1:{free_port()}"\nallow_anonymous = true\n'
            f'[listener.quic.external]\naddr = "127.0.0.1:{port}"\nallow_anonymous = true\n'
            f'cert = "{certificate}"\nkey = "{key}"\nmax_mqueue_len = 1000000\nmax_inflight = 64\n'
            f'[log]\nto = "off"\n[plugins]\ndir = "{directory}"\ndefault_startups = []\n'
        )
        return [self.program, "-f", config]


def make_broker(name, arguments):
    kinds = {
        "mosquitto": (Mosquitto, arguments.mosquitto),
        "quelea": (Quelea, arguments.quelea),
        "mqttv5": (Mqttv5, arguments.mqttv5),
        "rmqttd": (Rmqttd, arguments.rmqttd),
    }
    kind, program = kinds.get(name.split("-")[0], (None, None))
    if kind is None:
        raise SystemExit(f"compare: no broker is called {name}")
    if program is None or shutil.which(program) is None:
        print(f"compare: {name} is left out: {program or 'its program'} is not there", file=sys.stderr)
        return None
    return kind(name, shutil.which(program))


def answers(door, port):
    """Whether someone listens: for TCP by connecting, for QUIC by the kernel's list of sockets."""
    if door == "quic":
        wanted = f":{port:04X} "
        return any(wanted in line for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def measure(broker, door, case, arguments):
    """One broker under one load: the document of quelea-load, or the reason why there is none."""
    with tempfile.TemporaryDirectory(prefix="compare-") as text:
        directory = Path(text)
        directory.chmod(0o755)
        port = free_port(socket.SOCK_DGRAM if door == "quic" else socket.SOCK_STREAM)
        with open(directory / "broker.log", "wb") as log:
            command = [str(word) for word in broker.command(directory, door, port)]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not answers(door, port):
                if process.poll() is not None or time.monotonic() > deadline:
                    return {"failure": "it does not start: " + (directory / "broker.log").read_text(errors="replace")[-300:]}
                time.sleep(0.02)
            return generate(process, door, port, case, arguments)
        finally:
            process.kill()
            process.wait()


def generate(process, door, port, case, arguments):
    shape, per_s = SHAPES[case["shape"]]
    rate = str(per_s) if case["pace"] == "paced" else "max"
    command, *words = shape.split()
    host = "127.0.0.1" if door != "quic" else "localhost"
    words += ["--rate", rate, "--qos", str(case["qos"]), "--duration", f"{arguments.seconds}s", "--warm-up", f"{WARM_UP_S}s",
              "--payload", "64", "--drain", "5s", "--pid", str(process.pid), "--json", "-", "--quiet"]  # fmt: skip
    if door in ("tls", "wss", "quic"):
        words += ["--insecure"]
    if door == "quic":
        words += ["--bind", "127.0.0.1"]
    run = [arguments.load, command, f"{SCHEMES[door]}://{host}:{port}", *words]
    try:
        done = subprocess.run(run, capture_output=True, text=True, timeout=arguments.seconds + 60)
    except subprocess.TimeoutExpired:
        return {"failure": "the generator did not come to an end"}
    if not done.stdout:
        return {"failure": done.stderr.strip()[-300:]}
    return strip(json.loads(done.stdout))


def strip(document):
    """Without the encoded histograms: they are most of the document, and nothing here reads them."""
    if isinstance(document, dict):
        return {key: strip(value) for key, value in document.items() if key != "hdr"}
    if isinstance(document, list):
        return [strip(item) for item in document]
    return document


def figures(document):
    """What the tables show of one measurement."""
    if "failure" in document:
        return None
    broker, window = document["brokers"][0], document["window"]
    counts = document["counts"][0]
    if not broker["arrived"] or not broker["cpu_us_per_delivery"]:
        return None
    latency = document["latency"]["delivery"][0]["histogram"]
    return {
        "us": broker["cpu_us_per_delivery"],
        "per_cpu_s": broker["deliveries_per_cpu_s"],
        "per_s": window["arrived_per_s"],
        "p50": latency["p50_ns"] / 1e3,
        "p99": latency["p99_ns"] / 1e3,
        "lost": counts["lost"],
        "expected": counts["expected"],
        "bottleneck": document["bottleneck"],
    }


def cases(arguments):
    for shape in SHAPES:
        if arguments.shape not in shape:
            continue
        for pace in arguments.pace:
            if shape == LATENCY_SHAPE and pace == "paced" or shape != LATENCY_SHAPE or "quic" in arguments.doors:
                for qos in arguments.qos:
                    yield {"shape": shape, "pace": pace, "qos": qos}


def run_all(arguments, brokers, results):
    ends = time.monotonic() + arguments.minutes * 60
    for trial in range(arguments.trials):
        for door in arguments.doors:
            for case in cases(arguments):
                for broker in brokers:
                    if door not in broker.doors():
                        continue
                    if time.monotonic() > ends:
                        raise Stopped
                    document = measure(broker, door, case, arguments)
                    results.append({"broker": broker.name, "door": door, "trial": trial, **case, "document": document})
                    say(results[-1])


def say(result):
    found = figures(result["document"])
    where = f"trial {result['trial'] + 1}  {result['door']:4}  {result['shape']:13} {result['pace']:9} QoS {result['qos']}  {result['broker']:20}"
    if found is None:
        print(f"{where} failed: {result['document'].get('failure', 'nothing was delivered')}", file=sys.stderr, flush=True)
        return
    lost = f"  LOST {found['lost']:,} of {found['expected']:,}" if found["lost"] else ""
    star = " *" if found["bottleneck"] else ""
    print(
        f"{where} {found['us']:8.2f} µs  {found['per_s']:>9,.0f}/s  p50 {found['p50']:>8,.0f} µs  p99 {found['p99']:>8,.0f} µs{lost}{star}",
        file=sys.stderr,
        flush=True,
    )


def median_of(results, key, **wanted):
    """The median of one figure over the trials, and whether any had a starred generator or a loss."""
    found = [figures(result["document"]) for result in results if all(result[name] == value for name, value in wanted.items())]
    found = [one for one in found if one]
    if not found:
        return None
    return statistics.median(one[key] for one in found), any(one["bottleneck"] for one in found), sum(one["lost"] for one in found)


def cell(found, text):
    if found is None:
        return "-"
    value, star, lost = found
    return text(value) + ("*" if star else "") + (f" (lost {lost:,})" if lost else "")


def tables(arguments, brokers, results):
    lines = []
    names = [broker.name for broker in brokers]
    for door in arguments.doors:
        present = [name for name in names if any(result["door"] == door and result["broker"] == name for result in results)]
        if not present:
            continue
        for pace, title, key, text in (
            ("paced", "CPU µs per delivery, paced", "us", lambda value: f"{value:.2f}"),
            ("saturated", "CPU µs per delivery, saturated", "us", lambda value: f"{value:.2f}"),
            ("saturated", "deliveries per broker CPU second, saturated", "per_cpu_s", lambda value: f"{value:,.0f}"),
            ("saturated", "deliveries per second, saturated", "per_s", lambda value: f"{value:,.0f}"),
        ):
            rows = []
            for case in cases(arguments):
                if case["pace"] != pace:
                    continue
                row = [cell(median_of(results, key, door=door, broker=name, **case), text) for name in present]
                if any(value != "-" for value in row):
                    rows.append([f"{case['shape']}, QoS {case['qos']}", *row])
            lines += table(f"{door}: {title}", present, rows)
        rows = []
        for case in cases(arguments):
            if case["pace"] == "paced":
                pairs = [
                    (median_of(results, "p50", door=door, broker=name, **case), median_of(results, "p99", door=door, broker=name, **case))
                    for name in present
                ]
                row = ["-" if p50 is None else f"{p50[0]:,.0f} / {cell(p99, lambda value: f'{value:,.0f}')}" for p50, p99 in pairs]
                rows.append([f"{case['shape']}, QoS {case['qos']}", *row])
        lines += table(f"{door}: latency from the intended time, paced, p50 / p99 in µs", present, rows)
    return lines


def table(title, heads, rows):
    if not rows:
        return []
    lines = [f"### {title}", "", "| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def main():
    target = Path(__file__).resolve().parent.parent / "target" / "release"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quelea", default=target / "quelea", help="the broker to measure")
    parser.add_argument("--load", default=target / "quelea-load", help="the generator")
    parser.add_argument("--mosquitto", default=shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin"))
    parser.add_argument("--mqttv5", default="mqttv5", help="the program of mqttv5-cli")
    parser.add_argument("--rmqttd", default="rmqttd")
    parser.add_argument("--brokers", nargs="+", default=["mosquitto", "quelea-1shard-epoll", "quelea-1shard-uring", "quelea-2shard-epoll",
                        "quelea-2shard-uring", "quelea-1shard", "quelea-2shard", "mqttv5", "rmqttd"])  # fmt: skip
    parser.add_argument("--doors", nargs="+", default=["tcp"], choices=list(SCHEMES))
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="measured, per trial")
    parser.add_argument("--qos", type=int, nargs="+", choices=[0, 1, 2], default=[0, 1])
    parser.add_argument("--pace", nargs="+", choices=["paced", "saturated"], default=["paced", "saturated"])
    parser.add_argument("--shape", default="", help="only shapes with this in their name")
    parser.add_argument("--minutes", type=float, default=30, help="begin no measurement after this time")
    parser.add_argument("--realtime", action="store_true", help="broker and generator at SCHED_RR 1 (as root)")
    parser.add_argument("--json", metavar="FILE", help="write every measurement to this file")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to this file, too")
    arguments = parser.parse_args()
    arguments.load = str(arguments.load)
    if shutil.which(arguments.load) is None:
        parser.error(f"{arguments.load} is not there: cargo build --release -p quelea-load")
    brokers = [broker for name in arguments.brokers if (broker := make_broker(name, arguments))]
    # Without a choice of back ends the plain names say the same.
    if any(isinstance(broker, Quelea) and "io" in broker.known for broker in brokers):
        doubled = {"quelea-1shard", "quelea-2shard"} if {"quelea-1shard-epoll", "quelea-2shard-epoll"} <= set(arguments.brokers) else set()
        brokers = [broker for broker in brokers if broker.name not in doubled]
    if arguments.realtime:
        # Children inherit it: the pace has to be kept, too.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    results = []
    try:
        run_all(arguments, brokers, results)
    except (Stopped, KeyboardInterrupt):
        print("stopped before the end", file=sys.stderr)
    today = datetime.date.today().isoformat()
    lines = [f"{len(results)} measurements of {arguments.seconds:g} s on {today}, medians of up to {arguments.trials} trials"
             f"{', SCHED_RR' if arguments.realtime else ''}; * the generator was the bottleneck in a trial", ""]  # fmt: skip
    lines += tables(arguments, brokers, results)
    print("\n".join(lines))
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(lines) + "\n")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
