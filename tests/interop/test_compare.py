"""What `scripts/compare.py` plans: what fits the time that it is given, or a refusal that says how much time is enough."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import compare

pytestmark = pytest.mark.quelea_only("no broker is started")

SHELL = "/bin/sh"


class Everything:
    """A broker with every door."""

    def __init__(self, name: str):
        self.name = name

    def doors(self) -> set[str]:
        return {"tcp", "quic", "tls", "ws"}


BROKERS = [Everything("one"), Everything("two"), Everything("three")]


def plan(words: str) -> tuple[argparse.Namespace, list[Any]]:
    arguments = compare.parse(["--load", SHELL, *words.split()])
    return arguments, compare.fit(arguments, BROKERS)


def refusal(words: str) -> str:
    with pytest.raises(compare.Refused) as refused:
        plan(words)
    return str(refused.value)


@pytest.mark.parametrize("minutes", [16, 20, 30])
def test_a_plan_uses_the_minutes_and_no_more(minutes: int) -> None:
    arguments, planned = plan(f"--minutes {minutes}")
    expected = compare.expected_s(arguments, planned, arguments.seconds)
    assert 0.95 * minutes * 60 < expected <= minutes * 60


def test_all_that_was_asked_for_is_in_the_plan() -> None:
    planned = plan("--minutes 16")[1]
    # Three brokers: four shapes at two paces and two levels, twice over TCP and QUIC, once over TLS and WebSocket; connections once.
    assert len(planned) == 3 * (16 * (2 + 2 + 1 + 1) + 4)
    assert {door for _, door, _, _ in planned} == {"tcp", "quic", "tls", "ws"}


@pytest.mark.parametrize("words", ["", "--seconds 2", "--trials 3 --doors tcp quic"])
def test_too_few_minutes_are_refused_with_the_least_that_are_enough(words: str) -> None:
    least = int(re.search(r"need --minutes (\d+)", refusal(f"{words} --minutes 1"))[1])
    assert plan(f"{words} --minutes {least}")[1]
    refusal(f"{words} --minutes {least - 1}")


def test_the_refusal_says_what_a_single_trial_needs() -> None:
    least = int(re.search(r"with --trials 1 --minutes (\d+)", refusal("--minutes 1"))[1])
    assert plan(f"--trials 1 --minutes {least}")[1]
    assert "--trials" not in refusal(f"--trials 1 --minutes {least - 1}")


def test_who_gives_the_seconds_need_not_give_the_minutes() -> None:
    arguments, planned = plan("--seconds 10")
    assert arguments.seconds == 10
    assert compare.expected_s(arguments, planned, 10) > compare.MINUTES * 60


def test_nothing_is_not_measured() -> None:
    assert "nothing to measure" in refusal("--shape hexagon --connections 0")


def test_a_refusal_is_wrong_usage_and_touches_no_file(tmp_path: Path) -> None:
    words = ["--load", SHELL, "--brokers", "mosquitto", "--mosquitto", SHELL, "--minutes", "1", "--json", f"{tmp_path}/out"]
    done = subprocess.run([sys.executable, "-B", compare.__file__, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--minutes 1 is too short" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_measurement_begins_after_the_time_and_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]

    def lasts(seconds: float, result: dict[str, Any]) -> Any:
        def last(*_: object) -> dict[str, Any]:
            clock[0] += seconds
            return result

        return last

    monkeypatch.setattr(compare.time, "monotonic", lambda: clock[0])
    # Slower than planned: begun at 60, 85 and 110 s of 120.
    monkeypatch.setattr(compare, "self_test", lasts(60, {"failure": "none"}))
    monkeypatch.setattr(compare, "measure", lasts(25, {"failure": "none"}))
    monkeypatch.setattr(compare.signal, "signal", lambda *_: None)
    words = f"--load {SHELL} --brokers mosquitto --mosquitto {SHELL} --doors tcp --shape 1→1 --qos 1 --pace saturated"
    arguments = compare.parse([*words.split(), "--trials", "6", "--connections", "0", "--minutes", "2"])
    _, measurements, _ = compare.measure_all(arguments)
    assert len(measurements) == 3
    assert "3 of 6 measurements were made" in capsys.readouterr().err
