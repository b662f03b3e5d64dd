#!/usr/bin/env python3
"""Delivered messages per broker CPU second over TCP, Quelea beside mosquitto in one run.

    scripts/compare-tcp.py [--quelea target/release/quelea] [--rounds 3] [--seconds 4] [--json FILE]

Three shapes (one publisher to 50 subscribers, 50 to one, 50 pairs), each at QoS 0 and 1. The load is made by mosquitto_pub
and mosquitto_sub, one process per client: lines of 64 bytes are paced into `mosquitto_pub -l`, and what each mosquitto_sub
prints is counted. All brokers get the same load, far below what they could carry, so what differs is what it costs them.

Every measurement has a fresh broker with a fresh data directory on a free loopback port; the brokers take turns within
a round, so that what else the machine does falls on all of them. CPU seconds are user and system time of the broker's
process from /proc, from the moment when all clients are connected and subscribed to the arrival of the last message.
Trust the ratios, not the absolute figures, of a machine that is shared.

mosquitto runs with max_queued_messages 0 and max_inflight_messages 0 (no limit), so that it loses nothing here; Quelea
runs with its defaults. mosquitto's set_tcp_nodelay is its default, off, except as "mosquitto-nodelay".
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

CLIENTS = 50
PAYLOAD_BYTES = 64
READY_TOPIC = "ready"
# Deliveries per second of each shape.
SHAPES = {
    "fan-out 1→50": {"publishers": 1, "subscribers": CLIENTS, "publishes_per_s": 200},
    "fan-in 50→1": {"publishers": CLIENTS, "subscribers": 1, "publishes_per_s": 4_000},
    "50 pairs": {"publishers": CLIENTS, "subscribers": CLIENTS, "publishes_per_s": 4_000},
}
MOSQUITTO_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_type error
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay {nodelay}
"""
PATIENCE_S = 20
# mosquitto_pub needs a moment between being started and reading lines; it says nothing when it is connected.
SETTLE_S = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stopped(Exception):
    """The time given to the whole run is over."""


class Processes:
    """Everything that was started; `stop` ends all of it, in whatever state it is."""

    def __init__(self):
        self.running = []

    def start(self, command, **streams):
        process = subprocess.Popen(command, **streams)
        self.running.append(process)
        return process

    def stop(self):
        for process in reversed(self.running):
            if process.stdin:
                try:
                    process.stdin.close()
                except OSError:
                    pass
            if process.poll() is None:
                process.kill()
        for process in self.running:
            process.wait()
        self.running.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.02)


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def broker_command(name, arguments, directory, port, admin_port):
    if name.startswith("mosquitto"):
        config = os.path.join(directory, "mosquitto.conf")
        nodelay = "true" if name.endswith("nodelay") else "false"
        with open(config, "w") as file:
            file.write(MOSQUITTO_CONFIG.format(port=port, nodelay=nodelay))
        return [arguments.mosquitto, "-c", config]
    shards = name.removeprefix("quelea").removeprefix("-").removesuffix("shard") or "auto"
    return [
        arguments.quelea, "--tcp-listen", f"127.0.0.1:{port}", "--quic-listen", "", "--tls-listen", "",
        "--ws-listen", "", "--wss-listen", "",
        "--admin-listen", f"127.0.0.1:{admin_port}", "--data-dir", os.path.join(directory, "state"),
        "--log-level", "error", "--shards", shards,
    ]  # fmt: skip


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S


def switches(pid):
    """Times that the broker's threads went to sleep."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
    return total


def dropped(admin_port):
    """What Quelea counts as dropped, by reason; mosquitto does not say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if "drop" in line and not line.startswith("#") and not line.endswith(" 0")]


class Lines:
    """Lines in the growing output files of all subscribers."""

    def __init__(self, paths):
        self.files = [open(path, "rb") for path in paths]
        self.counts = [0] * len(paths)

    def count(self):
        for index, file in enumerate(self.files):
            while block := file.read(1 << 20):
                self.counts[index] += block.count(b"\n")
        return sum(self.counts)

    def close(self):
        for file in self.files:
            file.close()


def client(program, port, qos, *rest):
    return [program, "-h", "127.0.0.1", "-p", str(port), "-q", str(qos), *rest]


def topic(index, shape):
    return f"load/{index}" if shape["publishers"] == shape["subscribers"] else "load/0"


def start_clients(processes, directory, port, shape, qos):
    """Subscribers that are subscribed, and publishers that wait for lines."""
    retain = client("mosquitto_pub", port, 1, "-t", READY_TOPIC, "-m", "x", "-r")
    subprocess.run(retain, check=True, timeout=PATIENCE_S)
    paths = []
    for index in range(shape["subscribers"]):
        paths.append(os.path.join(directory, f"subscriber-{index}"))
        with open(paths[-1], "wb") as output:
            # The retained message comes after the subscription to the load has been made.
            topics = ["-t", topic(index, shape), "-t", READY_TOPIC]
            processes.start(client("mosquitto_sub", port, qos, *topics), stdout=output)
    publishers = [
        processes.start(
            client("mosquitto_pub", port, qos, "--nodelay", "-l", "-t", topic(index, shape)),
            stdin=subprocess.PIPE,
            bufsize=0,
        )
        for index in range(shape["publishers"])
    ]
    lines = Lines(paths)
    wait_for(lambda: lines.count() == len(paths), "all subscribers subscribed")
    time.sleep(SETTLE_S)
    return publishers, lines


def pace(publishers, per_second, seconds):
    """One line at a time, round robin, evenly spread; returns how many."""
    total = int(per_second * seconds)
    payload = b"x" * PAYLOAD_BYTES + b"\n"
    began = time.monotonic()
    for number in range(total):
        early = began + number / per_second - time.monotonic()
        if early > 0.0005:
            time.sleep(early)
        publishers[number % len(publishers)].stdin.write(payload)
    return total


def await_all(lines, expected):
    """Until everything has come, or nothing more comes."""
    count, changed = lines.count(), time.monotonic()
    while count < expected and time.monotonic() < changed + 3:
        time.sleep(0.05)
        before, count = count, lines.count()
        if count > before:
            changed = time.monotonic()
    return count


def measure(name, arguments, shape, qos):
    """One broker under one load."""
    directory = tempfile.mkdtemp(prefix="compare-tcp-")
    try:
        with Processes() as processes:
            port, admin_port = free_port(), free_port()
            command = broker_command(name, arguments, directory, port, admin_port)
            broker = processes.start(command, stdout=subprocess.DEVNULL)
            wait_for(lambda: broker.poll() is not None or answers(port), f"{name} on port {port}")
            if broker.poll() is not None:
                raise RuntimeError(f"{name} ended at once with {broker.returncode}")
            publishers, lines = start_clients(processes, directory, port, shape, qos)
            ready = lines.count()
            user, system = cpu_seconds(broker.pid)
            slept = switches(broker.pid)
            began = time.monotonic()
            published = pace(publishers, shape["publishes_per_s"], arguments.seconds)
            receivers = 1 if shape["publishers"] > 1 else shape["subscribers"]
            expected = published * receivers
            delivered = await_all(lines, ready + expected) - ready
            took = time.monotonic() - began
            user_end, system_end = cpu_seconds(broker.pid)
            slept_end = switches(broker.pid)
            lines.close()
            is_quelea = name.startswith("quelea")
            if delivered != expected and is_quelea:
                print("\n".join(dropped(admin_port)), file=sys.stderr)
            return {
                "broker": name, "expected": expected, "delivered": delivered, "seconds": round(took, 2),
                "user_s": round(user_end - user, 2), "system_s": round(system_end - system, 2),
                "sleeps": slept_end - slept,
            }  # fmt: skip
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def per_cpu_second(run):
    return run["delivered"] / max(run["user_s"] + run["system_s"], 1 / TICKS_PER_S)


def run_all(arguments, results):
    ends = time.monotonic() + arguments.minutes * 60
    for round_number in range(arguments.rounds):
        for shape_name, shape in SHAPES.items():
            if arguments.shape not in shape_name:
                continue
            for qos in arguments.qos:
                for name in arguments.brokers:
                    if time.monotonic() > ends:
                        raise Stopped
                    run = measure(name, arguments, shape, qos)
                    run |= {"shape": shape_name, "qos": qos, "round": round_number}
                    results.append(run)
                    print(
                        f"round {round_number + 1}  {shape_name:13} QoS {qos}  {name:18}"
                        f"{run['delivered']:>7} of {run['expected']}  user {run['user_s']:.2f} s"
                        f"  system {run['system_s']:.2f} s  {per_cpu_second(run):>8,.0f}/s",
                        file=sys.stderr,
                        flush=True,
                    )


def table(arguments, results):
    """A row per shape and QoS: medians of delivered messages per CPU second, and ratios to the first broker's."""
    first, *others = arguments.brokers
    heads = ["", *(f"{name} (1/s)" for name in arguments.brokers), *(f"{name} / {first}" for name in others)]
    rows = [heads, ["---"] * len(heads)]
    for shape in SHAPES:
        for qos in arguments.qos:
            of = {
                name: [per_cpu_second(run) for run in results
                       if (run["shape"], run["qos"], run["broker"]) == (shape, qos, name)]
                for name in arguments.brokers
            }  # fmt: skip
            if not all(of.values()):
                continue
            row = [f"{shape}, QoS {qos}", *(f"{statistics.median(of[name]):,.0f}" for name in arguments.brokers)]
            for name in others:
                ratios = [theirs / base for theirs, base in zip(of[name], of[first])]
                row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
            rows.append(row)
    for row in rows:
        print("| " + " | ".join(row) + " |")
    lost = [run for run in results if run["delivered"] != run["expected"]]
    print(f"\n{len(results)} measurements, {len(lost)} of them with messages lost.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quelea", default="target/release/quelea", help="the binary to measure")
    parser.add_argument("--mosquitto", default=shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin"))
    parser.add_argument("--brokers", nargs="+", default=["mosquitto", "quelea", "quelea-1shard"],
                        help="mosquitto, mosquitto-nodelay, quelea, quelea-Nshard; ratios are to the first")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of load, per measurement")
    parser.add_argument("--qos", type=int, nargs="+", choices=[0, 1, 2], default=[0, 1])
    parser.add_argument("--shape", default="", help="only shapes with this in their name")
    parser.add_argument("--minutes", type=float, default=15, help="begin no measurement after this time")
    parser.add_argument("--realtime", action="store_true",
                        help="brokers and clients at SCHED_RR 1 (as root): other work on the machine does not come between")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write every measurement to this file")
    arguments = parser.parse_args()
    for program in (arguments.mosquitto, "mosquitto_pub", "mosquitto_sub", arguments.quelea):
        if program is None or shutil.which(program) is None:
            parser.error(f"{program or 'mosquitto'} is not there")
    if arguments.realtime:
        # Children inherit it: the pace has to be kept, too.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    results = []
    try:
        run_all(arguments, results)
    except Stopped:
        print(f"stopped after {arguments.minutes} minutes", file=sys.stderr)
    table(arguments, results)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0 if all(run["delivered"] == run["expected"] for run in results) else 1


if __name__ == "__main__":
    sys.exit(main())
