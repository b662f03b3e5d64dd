"""Measurements as Markdown tables: medians over the trials, with marks on what must not be trusted.

A cell is `17.10 (0.49)`: the figure, and its ratio to mosquitto's under the same load (over TCP where mosquitto has no such door).
"""

import os
import statistics

from comparison.loads import CONNECTIONS, PAIR, SHAPES, Case, cases, figures

REFERENCE = "mosquitto"
LEGEND = (
    "In parentheses: the ratio to mosquitto under the same load, over TCP where it has no such door. "
    "† messages were lost: a cost per delivery of a broker that drops says little. "
    "‡ the run failed otherwise (see below). * the generator was the bottleneck in a trial: read rates as lower and latencies as upper bounds."
)


class Results:
    """All measurements, to be asked for medians."""

    def __init__(self, measurements):
        self.measurements = measurements

    def of(self, broker, door, case):
        return [one for one in self.measurements if (one["broker"], one["door"], Case(**one["case"])) == (broker, door, case)]

    def figures_of(self, broker, door, case):
        found = [figures(one["document"]) for one in self.of(broker, door, case)]
        return [one for one in found if one]

    def median(self, key, broker, door, case):
        values = [one[key] for one in self.figures_of(broker, door, case) if one.get(key) is not None]
        return statistics.median(values) if values else None

    def reference(self, key, door, case):
        own = self.median(key, REFERENCE, door, case)
        return own if own is not None else self.median(key, REFERENCE, "tcp", case)

    def marks(self, key, broker, door, case):
        found = self.figures_of(broker, door, case)
        lost, expected = sum(one["lost"] for one in found), sum(one["expected"] for one in found)
        text = f" † {percent(lost, expected)} lost" if lost else ""
        text += " ‡" if any(is_failure(one) for one in self.of(broker, door, case)) else ""
        # Under a saturated load the generator works as hard as it can, which says nothing of what a delivery costs the broker.
        is_telling = key != "us" or case.pace == "paced"
        return text + (" *" if is_telling and any(one["bottleneck"] for one in found) else "")

    def cell(self, key, broker, door, case, text, ratio=True):
        value = self.median(key, broker, door, case)
        if value is None:
            return "‡" if self.of(broker, door, case) else "-"
        reference = self.reference(key, door, case) if ratio and broker != REFERENCE else None
        beside = f" ({value / reference:.2f})" if reference else ""
        return text(value) + beside + self.marks(key, broker, door, case)


def is_failure(measurement):
    """Whether a run failed for another reason than loss, which has a mark of its own."""
    document = measurement["document"]
    return "failure" in document or any("were lost" not in reason for reason in document["outcome"]["reasons"])


def percent(part, whole):
    share = 100 * part / whole if whole else 0
    return f"{share:.1f} %" if share >= 0.1 else "<0.1 %"


def two_digits(value):
    return f"{value:.2f}"


def whole(value):
    return f"{value:,.0f}"


def tables(arguments, brokers, measurements):
    """All tables, as lines of Markdown."""
    results = Results(measurements)
    doors = [door for door in arguments.doors if any(one["door"] == door for one in measurements)]
    lines = expectations(results)
    for door in doors:
        names = [broker for broker in brokers if any((one["broker"], one["door"]) == (broker, door) for one in measurements)]
        for pace, title, key, text in (
            ("paced", "CPU µs per delivery, paced", "us", two_digits),
            ("saturated", "CPU µs per delivery, saturated", "us", two_digits),
            ("saturated", "deliveries per second, saturated", "per_s", whole),
        ):
            rows = [
                [case.name(), *(results.cell(key, name, door, case, text) for name in names)]
                for case in cases(arguments)
                if case.pace == pace
            ]
            lines += table(f"{door}: {title}", names, rows)
        rows = [
            [case.name(), *(both_quantiles(results, name, door, case) for name in names)]
            for case in cases(arguments)
            if case.pace == "paced"
        ]
        lines += table(f"{door}: latency from the intended time, paced, p50 / p99 in µs", names, rows)
    lines += connections(results, arguments, brokers, doors)
    return lines + notes(measurements)


def both_quantiles(results, name, door, case):
    p50 = results.median("p50", name, door, case)
    p99 = results.cell("p99", name, door, case, whole, ratio=False)
    return p99 if p50 is None else f"{p50:,.0f} / {p99}"


def connections(results, arguments, brokers, doors):
    """What connections cost, a row for each broker and door."""
    case = Case(CONNECTIONS, "connections", 0)
    columns = (
        ("us", "CPU µs", two_digits),
        ("resident", "resident bytes", whole),
        ("slab", "kernel slab bytes, both ends", whole),
        ("buffers", "kernel buffer bytes, both ends", whole),
        ("p99", "p99 to CONNACK, µs", whole),
    )
    rows = []
    for door in doors:
        for name in brokers:
            if results.of(name, door, case):
                cells = [results.cell(key, name, door, case, text, ratio=key in ("us", "resident")) for key, _, text in columns]
                rows.append([f"{door}, {name}", *cells])
    title = f"per connection: {arguments.connections:,} of them at {arguments.connect_rate:,}/s, handshakes included"
    return table(title, [head for _, head, _ in columns], rows)


def expectations(results):
    """What was hoped for, beside what is; rows without figures are left out."""

    def best(broker_part, key, door, case, choose=min):
        names = {one["broker"] for one in results.measurements if broker_part in one["broker"]}
        values = [value for name in names if (value := results.median(key, name, door, case)) is not None]
        return choose(values) if values else None

    pairs, flood = Case("50 pairs", "paced", 1), Case(PAIR, "saturated", 0)
    mosquitto = results.median("us", REFERENCE, "tcp", pairs)
    rows = []
    for text, found, bound, unit in (
        ("TCP, pairs, QoS 1, paced: CPU beside mosquitto's", quotient(best("1shard", "us", "tcp", pairs), mosquitto), "≤ 0.50", two_digits),
        ("QUIC, pairs, QoS 1, paced: CPU beside mosquitto's over TCP", quotient(best("1shard", "us", "quic", pairs), mosquitto), "≤ 1.00", two_digits),
        ("QUIC, flood 1→1, QoS 0: deliveries per CPU second", best("quelea", "per_cpu_s", "quic", flood, max), "> 1,000,000", whole),
        *(
            (f"TCP, {shape}, QoS 0, saturated: 2 shards beside one, deliveries per second",
             quotient(best("2shard", "per_s", "tcp", Case(shape, "saturated", 0), max), best("1shard", "per_s", "tcp", Case(shape, "saturated", 0), max)),
             "≥ 1.90", two_digits)
            for shape in SHAPES if shape != PAIR
        ),
    ):  # fmt: skip
        if found is not None:
            rows.append([text, bound, unit(found)])
    cores = os.cpu_count() or 1
    # Broker and generator share them: two busy shards and a busy generator need three.
    shared = f"; {cores} cores for broker and generator" if cores < 3 else ""
    return table(f"what was hoped for (best back end{shared})", ["hoped for", "measured"], rows)


def quotient(part, whole_value):
    return part / whole_value if part is not None and whole_value else None


def notes(measurements):
    """Why runs failed, and what brokers say of their own drops."""
    lines = []
    for one in measurements:
        document, case = one["document"], Case(**one["case"])
        where = f"{one['broker']}, {one['door']}, {case.name()}, {case.pace}, trial {one['trial'] + 1}"
        reasons = [document["failure"]] if "failure" in document else document["outcome"]["reasons"]
        errors = [f"{error['count']} × {error['reason']}" for error in document.get("connections", {}).get("errors", [])]
        drops = [f"{name} {value:,.0f}" for name, value in document.get("drops", {}).items()]
        if reasons or drops:
            lines.append(f"* {where}: " + "; ".join(" ".join(text.split()) for text in (*reasons, *errors, *drops)))
    return ["### what failed or was lost", "", *lines, ""] if lines else []


def table(title, heads, rows):
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    if not rows:
        return []
    lines = [f"### {title}", "", "| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]
