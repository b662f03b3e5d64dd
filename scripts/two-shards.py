#!/usr/bin/env python3
"""What it costs that a subscriber lives on another shard: one pair, saturated, beside the same pair on one shard.

    cargo build --release -p quelea -p quelea-load
    scripts/two-shards.py [--doors tcp quic] [--trials 9] [--seconds 1] [--markdown FILE] [--json FILE]

A broker with one shard and one with two take turns, each measurement with a fresh broker. Which shard a connection falls on is
chance (the kernel's, by the ports), so with two shards some pairs fall on one and some on both: which it was, the broker's own
counter of envelopes between shards says, and the two kinds are told apart. CPU of the broker by delivered message, medians with
their range. Two shards deliver twice what one does if a message costs the same, and each has a core of its own: where the load
generator shares the cores with the broker, that is the figure to be had.
"""

import argparse
import json
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from comparison.brokers import Quelea, Running
from comparison.loads import PAIR, Case, figures, generate

ROOT = Path(__file__).resolve().parent.parent
# Of the messages, this many at least must have crossed, or at most must not have: what lies between is neither.
ACROSS_MIN, WITHIN_MAX = 0.5, 0.05


def envelopes(broker):
    """Messages that went from one shard to another."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    samples = [line.rsplit(" ", 1) for line in lines if line.startswith("quelea_envelopes_sent")]
    if not samples:
        raise SystemExit("two-shards: the broker does not count its envelopes")
    return sum(float(value) for _, value in samples)


def trial(shards, door, qos, arguments):
    """One measurement: its figures and where the pair was, or `None` if nothing was measured."""
    broker = Quelea(f"quelea-{shards}shard-{arguments.backend}", arguments.quelea)
    with tempfile.TemporaryDirectory(prefix="two-shards-") as directory, Running(broker, door, directory) as running:
        failure = running.becomes_ready()
        if failure is not None:
            raise SystemExit(f"two-shards: {failure}")
        document = generate(running, door, Case(PAIR, "saturated", qos), arguments)
        found = figures(document)
        if found is None or found["lost"]:
            # What a delivery costs a broker that drops says little.
            return None
        share = envelopes(broker) / max(1, document["counts"][0]["expected"])
    place = "one shard" if shards == 1 else "across" if share >= ACROSS_MIN else "within" if share <= WITHIN_MAX else None
    return found | {"door": door, "qos": qos, "place": place, "share": share} if place else None


def table(found):
    rows = ["| CPU per delivery | one shard | two, pair on one | beside one shard | two, pair on both | beside one shard |", "|---|---|---|---|---|---|"]
    for door, qos in sorted({(one["door"], one["qos"]) for one in found}):
        costs = {place: [one["us"] for one in found if (one["door"], one["qos"], one["place"]) == (door, qos, place)]
                 for place in ("one shard", "within", "across")}  # fmt: skip
        alone = statistics.median(costs["one shard"]) if costs["one shard"] else None
        cells = [f"{door.upper()}, QoS {qos}", cell(costs["one shard"])]
        for place in ("within", "across"):
            mine = costs[place]
            cells += [cell(mine), f"{statistics.median(mine) / alone:.2f}" if mine and alone else "-"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def cell(costs):
    """Median and range in µs, and of how many."""
    if not costs:
        return "-"
    return f"{statistics.median(costs):.2f} µs ({min(costs):.2f}-{max(costs):.2f}, {len(costs)} runs)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quelea", default=str(ROOT / "target/release/quelea"))
    parser.add_argument("--load", default=str(ROOT / "target/release/quelea-load"))
    parser.add_argument("--backend", choices=["epoll", "uring"], default="uring", help="back end of the broker")
    parser.add_argument("--io", default="auto", help="back end of the generator")
    parser.add_argument("--doors", nargs="+", choices=["tcp", "quic"], default=["tcp", "quic"])
    parser.add_argument("--qos", nargs="+", type=int, choices=[0, 1, 2], default=[0, 1])
    parser.add_argument("--trials", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()
    loads = [(door, qos, shards) for door in arguments.doors for qos in arguments.qos for shards in (1, 2)] * arguments.trials
    found, interrupted = [], False
    try:
        for number, (door, qos, shards) in enumerate(loads, 1):
            one = trial(shards, door, qos, arguments)
            found += [one] if one else []
            said = f"{one['us']:.2f} µs, {one['per_s']:,.0f}/s, {one['place']}" if one else "nothing that counts"
            print(f"{number:4}/{len(loads)} {door} QoS {qos}, shards {shards}: {said}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
    if arguments.json:
        Path(arguments.json).write_text("".join(json.dumps(one) + "\n" for one in found))
    text = table(found)
    if arguments.markdown:
        Path(arguments.markdown).write_text(text + "\n")
    print(text)
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
