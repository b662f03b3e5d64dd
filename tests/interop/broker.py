"""The broker under test as a process: started on free ports, watched, stopped by SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

from client import PATIENCE_S, NotHeard, wait_until

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("INTEROP_TARGET", ROOT / "target"))


def quelea_binary() -> Path:
    """`QUELEA_BIN`, or the newer of the release and the debug build."""
    if named := os.environ.get("QUELEA_BIN"):
        return Path(named)
    built = [path for path in (TARGET / "release" / "quelea", TARGET / "debug" / "quelea") if path.exists()]
    assert built, "no binary: run `cargo build --bin quelea`, or name one with QUELEA_BIN"
    return max(built, key=lambda path: path.stat().st_mtime)


class Broker:
    """A running broker. `tcp` is always there; the others only for ours."""

    tcp: tuple[str, int]
    tls: tuple[str, int] | None = None
    ws: tuple[str, int] | None = None
    wss: tuple[str, int] | None = None
    quic: tuple[str, int] | None = None
    admin: tuple[str, int] | None = None

    def __init__(self, arguments: list[str], directory: Path, environment: dict[str, str] | None = None):
        self.directory = directory
        self.log_path = directory / "broker.log"
        self.was_stopped = False
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            arguments, cwd=directory, stdout=self._log, stderr=subprocess.STDOUT, env=environment
        )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.log(), re.MULTILINE)
            if not found:
                assert self.process.poll() is None, f"the broker ended: {self.process.returncode}\n{self.log()}"
            return found

        return wait_until(f"the broker prints {pattern!r}; it printed:\n{self.log()}", look)

    def stop(self, signal_: int = signal.SIGTERM, timeout_s: float = 40.0) -> int:
        """Asks the broker to end and returns its exit code."""
        self.was_stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signal_)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NotHeard(f"the broker did not end {timeout_s} s after signal {signal_}\n{self.log()}") from None

    def destroy(self) -> None:
        """Makes sure that nothing stays behind, whatever a test has done."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def alive(self) -> bool:
        return self.process.poll() is None

    def rss_bytes(self) -> int:
        """Resident memory now, from the kernel's own count."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def rss_peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


class Mosquitto(Broker):
    def __init__(self, directory: Path):
        port = _free_port()
        config = directory / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "persistence false\n"
            "log_dest stderr\n"
            "max_inflight_messages 32\n"
            "max_topic_alias 16\n"
        )
        environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        super().__init__(["mosquitto", "-c", str(config)], directory, environment)
        self.tcp = ("127.0.0.1", port)
        self.wait_for_log(r"mosquitto version .* running")


class Quelea(Broker):
    """Our binary, two shards, every listener on a free port of 127.0.0.1 that the kernel chooses."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, dict[str, object]] | None = None,
        environment: dict[str, str] | None = None,
        tail: str = "",
    ):
        self.config_path = directory / "quelea.toml"
        self.config_path.write_text(config(directory, settings) + tail)
        # The caller may force a back end; whatever else is in the environment must not reach the broker.
        variables = {
            name: value
            for name, value in os.environ.items()
            if name == "QUELEA_IO__BACKEND" or not name.startswith("QUELEA_")
        }
        super().__init__(
            [str(quelea_binary()), "--config", str(self.config_path)],
            directory,
            variables | {"NO_COLOR": "1"} | (environment or {}),
        )
        self.quic = self._listening("QUIC")
        self.tcp = self._listening("TCP")
        self.tls, self.ws, self.wss = self._listening("TLS"), self._listening("WS"), self._listening("WSS")
        # The development certificate is its own authority.
        self.cafile = str(directory / "data" / "development.crt.pem")
        self.admin = self._listening("(?:admin|metrics|HTTP)")

    def door(self, name: str) -> tuple[str, int]:
        return {"tcp": self.tcp, "tls": self.tls, "ws": self.ws, "wss": self.wss}[name]

    def _listening(self, what: str) -> tuple[str, int]:
        found = self.wait_for_log(rf"(?i)^.*\b{what}\b.*?(127\.0\.0\.1):(\d+)")
        return (found[1], int(found[2]))

    def all_listening(self, what: str) -> list[tuple[str, int]]:
        """Every address in the banner's lines of that name."""
        found = re.findall(rf"(?m)^ +MQTT over {what} .*?(127\.0\.0\.1):(\d+)", self.log())
        return [(host, int(port)) for host, port in found]

    def metrics(self) -> dict[str, float]:
        """`/metrics` as name{labels} to value."""
        text = http_get(self.admin, "/metrics")
        found = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def by_shard(self, name: str) -> dict[str, float]:
        found = {}
        for series, value in self.metrics().items():
            if series.split("{")[0] == name and (shard := re.search(r'shard="(\d+)"', series)):
                found[shard[1]] = value
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of `name` that carry `labels`. A name that no series has is an error of the test."""
        found = [
            value
            for series, value in self.metrics().items()
            if series.split("{")[0] == name
            and all(f'{label}="{wanted}"' in series for label, wanted in labels.items())
        ]
        assert found, f"/metrics has no {name} {labels}"
        return sum(found)


def config(directory: Path, settings: dict[str, dict[str, object]] | None = None) -> str:
    """A configuration with every port left to the kernel; `settings` adds keys or replaces them, section by section."""
    sections: dict[str, dict[str, object]] = {
        "broker": {"shards": 2, "data_dir": str(directory / "data"), "drain_timeout": "5s"},
        "quic": {"listen": ["127.0.0.1:0"]},
        "tcp": {"listen": ["127.0.0.1:0"]},
        "tls": {"listen": ["127.0.0.1:0"]},
        "ws": {"listen": ["127.0.0.1:0"]},
        "wss": {"listen": ["127.0.0.1:0"]},
        "admin": {"listen": ["127.0.0.1:0"]},
    }
    for name, keys in (settings or {}).items():
        sections.setdefault(name, {}).update(keys)
    lines = []
    for name, keys in sections.items():
        lines.append(f"[{name}]")
        # TOML writes strings, numbers, booleans and lists of them as JSON does.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def http_get(address: tuple[str, int], path: str) -> str:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def _free_port() -> int:
    """A port that is free now. Only for mosquitto, which cannot tell which port the kernel chose for it."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
