#!/usr/bin/env python3
"""What a delivered message costs a broker, and how long it takes: Quelea beside other brokers in one run.

    cargo build --release -p quelea -p quelea-load
    scripts/compare.py [--doors tcp tls ws quic] [--minutes 20] [--realtime] [--markdown FILE] [--json FILE]

The load is made by quelea-load: fan-out 1→50, fan-in 50→1 and 50 pairs, QoS 0 and 1, each paced (all brokers get the same
load, far below what they could carry) and saturated (a closed loop, with fewer messages under way for each subscriber than any broker queues);
one pair at 1,000 messages/s for the latencies, and flooding; and connections alone, for handshakes and memory. Brokers take turns
under each load, each measurement with a fresh broker, a fresh data directory and free loopback ports.

CPU is that of the broker's process within the measured window, by messages that arrived in it; of connections, from before the
first to the last. Trust ratios within one run, not absolute times, of a machine that is shared; `--realtime` (as root) puts broker
and generator at SCHED_RR except under a saturated load, so that other work does not come between. Saturated runs keep the ordinary
scheduler: three threads of that kind on two cores would take turns of 100 ms. What a broker loses is written into the cell.

Brokers, by name: mosquitto; quelea, with -Nshard and -epoll or -uring behind it (quelea-1shard-epoll); mqttv5 (of mqttv5-cli) and
rmqttd over TCP and QUIC. What is not installed or has no such door is left out.

Each measurement is written to `--json` as it ends, a line each: an interrupted run keeps what it has, and `--from FILE` makes the
tables again. `--minutes` is the time of the whole run, the generator's self-test included, from which the seconds of each measurement
follow unless they are given. What does not fit is refused before anything is measured, with the least number of minutes.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from comparison.brokers import make_broker
from comparison.loads import CONNECTIONS, OVERHEAD_S, SCHEMES, SELF_TEST_S, Case, cases, figures, measure, self_test
from comparison.tables import LEGEND, tables

# Encrypted and framed relatives of TCP: measured in fewer trials.
SIDE_DOORS = {"tls", "ws", "wss"}
SECONDS_MIN, SECONDS_MAX = 0.5, 10.0
MINUTES = 20
# What tables need to know of a run.
ASKED = {"seconds", "trials", "side_trials", "realtime", "doors", "qos", "pace", "shape", "connections", "connect_rate"}


class Refused(Exception):
    """What was asked for cannot be measured."""


class Stopped(Exception):
    """The time given to the whole run is over, or somebody wants it to end."""


def schedule(arguments, brokers):
    """Every measurement, in the order in which they are made."""
    for trial in range(arguments.trials):
        for door in arguments.doors:
            if door in SIDE_DOORS and trial >= arguments.side_trials:
                continue
            for case in cases(arguments):
                if case.shape == CONNECTIONS and trial > 0:
                    continue
                for broker in brokers:
                    if door in broker.doors():
                        yield trial, door, case, broker


def expected_s(arguments, planned, seconds):
    """How long the whole run takes."""
    asked = argparse.Namespace(**vars(arguments) | {"seconds": seconds})
    return SELF_TEST_S + sum(case.seconds(asked) + OVERHEAD_S for _, _, case, _ in planned)


def fit(arguments, brokers):
    """All that was asked for, with the seconds that its time allows. Nothing of it is left out: what does not fit is refused."""
    planned = list(schedule(arguments, brokers))
    if not planned:
        raise Refused("there is nothing to measure: no broker that is here has such a door, or no load has such a name")
    if arguments.minutes is None:
        # Who gives the seconds has given the time, too.
        arguments.minutes = MINUTES if arguments.seconds is None else math.inf
    least = least_minutes(arguments, planned)
    if least > arguments.minutes:
        raise Refused(too_short(arguments, brokers, planned, least))
    if arguments.seconds is None:
        arguments.seconds = choose_seconds(arguments, planned)
    return planned


def least_minutes(arguments, planned):
    return expected_s(arguments, planned, arguments.seconds or SECONDS_MIN) / 60


def too_short(arguments, brokers, planned, least):
    text = f"--minutes {arguments.minutes:g} is too short: {len(planned)} measurements of {arguments.seconds or SECONDS_MIN:g} s need " \
           f"--minutes {math.ceil(least)}"  # fmt: skip
    if arguments.trials > 1:
        once = argparse.Namespace(**vars(arguments) | {"trials": 1})
        text += f", with --trials 1 --minutes {math.ceil(least_minutes(once, list(schedule(once, brokers))))}"
    return text + "; or measure less (--brokers, --doors, --shape, --qos, --pace)"


def choose_seconds(arguments, planned):
    """As long as the whole run may take: the time is linear in the seconds of each measurement."""
    fixed = expected_s(arguments, planned, 0.0)
    each = expected_s(arguments, planned, 1.0) - fixed
    wanted = (arguments.minutes * 60 - fixed) / each if each else SECONDS_MIN
    # Never rounded up, past the time.
    return math.floor(min(max(wanted, SECONDS_MIN), SECONDS_MAX) * 100) / 100


def run_all(arguments, planned, keep, ends):
    for number, (trial, door, case, broker) in enumerate(planned):
        if time.monotonic() > ends:
            raise Stopped
        document = measure(broker, door, case, arguments)
        measurement = {"broker": broker.name, "door": door, "trial": trial, "case": asdict(case), "document": document}
        keep(measurement)
        say(f"{number + 1}/{len(planned)}", measurement)


def say(progress, measurement):
    document, case = measurement["document"], Case(**measurement["case"])
    where = f"{progress:>9}  {measurement['door']:4}  {case.name():19} {case.pace:11} {measurement['broker']:19}"
    found = figures(document)
    if found is None:
        reasons = document.get("outcome", {}).get("reasons") or ["nothing was delivered"]
        text = "failed: " + document.get("failure", "; ".join(reasons))
    else:
        text = f"{found['us']:8.2f} µs"
        text += f"  {found['per_s']:>9,.0f}/s" if "per_s" in found else f"  {found['resident']:>9,.0f} B"
        text += f"  p50 {found['p50']:>8,.0f} µs  p99 {found['p99']:>8,.0f} µs"
        text += f"  LOST {found['lost']:,} of {found['expected']:,}" if found["lost"] else ""
        text += "".join(f"  {reason}" for reason in found["reasons"]) + (" *" if found["bottleneck"] else "")
    print(f"{where} {text}", file=sys.stderr, flush=True)


def heading(arguments, measurements, itself):
    trials = f"up to {arguments.trials} trials ({arguments.side_trials} of TLS and WebSocket)"
    realtime = ", broker and generator at SCHED_RR where paced" if arguments.realtime else ""
    lines = [f"{len(measurements)} measurements of {arguments.seconds:g} s on {datetime.date.today().isoformat()}, medians of {trials}"
             f"{realtime}. {LEGEND}", ""]  # fmt: skip
    for row in (itself or {}).get("rows", []):
        if row["kind"] == "floor":
            delivery = row["delivery"]
            lines.append(f"* the generator's own floor, {row['io']}, {row['shape']}, QoS {row['qos']}: "
                         f"p50 {delivery['p50_ns'] / 1e3:.0f} µs, p99 {delivery['p99_ns'] / 1e3:.0f} µs")  # fmt: skip
        else:
            lines.append(f"* its ceiling, {row['io']}, {row['shape']}, QoS {row['qos']}: {row['per_s']:,.0f} messages/s, "
                         f"{row['cpu_us_per_message']:.2f} µs each")  # fmt: skip
    return [*lines, ""]


def parse(words):
    target = Path(__file__).resolve().parent.parent / "target" / "release"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quelea", default=target / "quelea", help="the broker to measure")
    parser.add_argument("--load", default=target / "quelea-load", help="the generator")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "io_uring"], help="back end of the generator")
    parser.add_argument("--mosquitto", default=shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin"))
    parser.add_argument("--mqttv5", default="mqttv5", help="the program of mqttv5-cli")
    parser.add_argument("--rmqttd", default="rmqttd")
    parser.add_argument("--brokers", nargs="+", default=["mosquitto", "quelea-1shard-epoll", "quelea-1shard-uring",
                        "quelea-2shard-epoll", "quelea-2shard-uring", "mqttv5", "rmqttd"])  # fmt: skip
    parser.add_argument("--doors", nargs="+", default=["tcp", "quic", "tls", "ws"], choices=list(SCHEMES))
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--side-trials", type=int, default=1, help="trials of tls, ws and wss")
    parser.add_argument("--seconds", type=float, help="measured, per trial (default: what --minutes allows)")
    parser.add_argument("--minutes", type=float, help=f"time of the whole run; no measurement begins after it (default: {MINUTES}, or what --seconds take)")
    parser.add_argument("--qos", type=int, nargs="+", choices=[0, 1, 2], default=[0, 1])
    parser.add_argument("--pace", nargs="+", choices=["paced", "saturated"], default=["paced", "saturated"])
    parser.add_argument("--shape", default="", help="only shapes with this in their name")
    parser.add_argument("--connections", type=int, default=1000, help="for handshakes and memory; 0 for none")
    parser.add_argument("--connect-rate", type=int, default=500, help="per second")
    parser.add_argument("--realtime", action="store_true", help="broker and generator at SCHED_RR 1 where paced (as root)")
    parser.add_argument("--json", metavar="FILE", help="write each measurement to this file, a line each")
    parser.add_argument("--from", metavar="FILE", dest="earlier", help="measure nothing: make the tables of such a file")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to this file, too")
    arguments = parser.parse_args(words)
    arguments.load = str(arguments.load)
    if not arguments.earlier and shutil.which(arguments.load) is None:
        parser.error(f"{arguments.load} is not there: cargo build --release -p quelea-load")
    return arguments


def measure_all(arguments):
    """Measures until the end, or until it is stopped. Returns the names of the brokers, the measurements, and the self-test."""
    brokers = [broker for name in arguments.brokers if (broker := make_broker(name, arguments))]
    planned = fit(arguments, brokers)
    ends = time.monotonic() + arguments.minutes * 60
    minutes = expected_s(arguments, planned, arguments.seconds) / 60
    print(f"{len(planned)} measurements of {arguments.seconds:g} s, about {minutes:.0f} minutes", file=sys.stderr, flush=True)
    measurements, itself = [], None
    lines = open(arguments.json, "w") if arguments.json else None

    def keep(measurement):
        measurements.append(measurement)
        write({"measurement": measurement})

    def write(document):
        if lines:
            lines.write(json.dumps(document) + "\n")
            lines.flush()

    def stop(*_):
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        itself = self_test(arguments)
        names = [broker.name for broker in brokers]
        asked = {key: value for key, value in vars(arguments).items() if key in ASKED} | {"brokers": names}
        write({"self_test": itself, "asked": asked})
        run_all(arguments, planned, keep, ends)
    except (Stopped, KeyboardInterrupt):
        print(f"stopped before the end: {len(measurements)} of {len(planned)} measurements were made", file=sys.stderr)
    return [broker.name for broker in brokers], measurements, itself


def read_all(arguments):
    """What an earlier run has written."""
    documents = [json.loads(line) for line in Path(arguments.earlier).read_text().splitlines()]
    for key, value in documents[0]["asked"].items():
        setattr(arguments, key, value)
    return arguments.brokers, [one["measurement"] for one in documents[1:]], documents[0]["self_test"]


def main():
    arguments = parse(sys.argv[1:])
    try:
        brokers, measurements, itself = read_all(arguments) if arguments.earlier else measure_all(arguments)
    except Refused as refused:
        print(f"compare: {refused}", file=sys.stderr)
        return 2
    lines = heading(arguments, measurements, itself) + tables(arguments, brokers, measurements)
    print("\n".join(lines))
    if arguments.markdown:
        Path(arguments.markdown).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
