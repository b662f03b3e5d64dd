"""mosquitto_pub and mosquitto_sub as processes."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
from dataclasses import dataclass

from client import PATIENCE_S, NotHeard

# Fields of a received message, as mosquitto_sub's -F writes them: QoS, retain flag, topic, payload in hex.
_FORMAT = "MESSAGE %q %r %t %x"

VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]


@dataclass
class Heard:
    qos: int
    retain: bool
    topic: str
    payload: bytes


def _command(program: str, address: tuple[str, int], version: str, arguments: tuple[str, ...]) -> list[str]:
    return [program, "-h", address[0], "-p", str(address[1]), "-V", version, *arguments]


def publish(address: tuple[str, int], version: str, *arguments: str, payload: bytes | None = None) -> str:
    """Runs mosquitto_pub to its end and returns what it printed; `payload` goes in by standard input with -s."""
    done = subprocess.run(
        _command("mosquitto_pub", address, version, arguments),
        input=payload,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
    )
    printed = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"mosquitto_pub: exit code {done.returncode}: {printed}"
    return printed


class Subscriber:
    """mosquitto_sub, ready when the broker has acknowledged its subscription."""

    def __init__(
        self,
        address: tuple[str, int],
        version: str,
        *arguments: str,
        line_format: str = _FORMAT,
        wait_for: str = r"Subscribed \(mid",
    ):
        # -d prints the packets as they come, which is how the SUBACK is seen; stdbuf has each line at once.
        command = _command("mosquitto_sub", address, version, (*arguments, "-d", "-F", line_format))
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        self.printed: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        if wait_for:
            self.line(wait_for)

    def line(self, pattern: str) -> re.Match[str]:
        """The next line that matches; the lines before it are passed over."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE_S)
            except queue.Empty:
                line = None
            if line is None:
                raise NotHeard(f"mosquitto_sub printed no {pattern!r}, but: {self.printed[-20:]}")
            if found := re.search(pattern, line):
                return found

    def heard(self) -> Heard:
        found = self.line(r"^MESSAGE (\d) (\d) (\S+) ?([0-9a-f]*)$")
        return Heard(int(found[1]), found[2] == "1", found[3], bytes.fromhex(found[4]))

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self.printed.append(text[:200])
            self._lines.put(text)
        self._lines.put(None)
