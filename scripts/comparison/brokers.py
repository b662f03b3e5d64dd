"""The brokers: how each is configured, started and found to be ready.

Each runs as it ships, with two exceptions: limits that would make it drop under these loads are lifted where it has them
(mosquitto, rmqttd), and nothing is written to disk. Quelea keeps its defaults.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

PATIENCE_S = 20


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
        """How it is started with one listener; writes its configuration."""
        raise NotImplementedError

    def drops(self):
        """What the running broker itself says of messages that it has dropped, by reason."""
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
        # 2.0.11 ends at once if WebSocket is all that it is to listen for.
        lines += [f"listener {free_port()} 127.0.0.1"] if door in ("ws", "wss") else []
        config = directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-c", config]


class Quelea(Broker):
    def __init__(self, name, program):
        super().__init__(name, program)
        words = name.split("-")[1:]
        self.shards = next((word.removesuffix("shard") for word in words if word.endswith("shard")), "auto")
        backends = {"epoll": "epoll", "uring": "io_uring"}
        self.backend = next((backends[word] for word in words if word in backends), None)
        printed = subprocess.run([program, "--print-config"], capture_output=True, text=True, check=True).stdout
        self.known = tomllib.loads(printed)
        self.admin = None

    def doors(self):
        return {"tcp", "quic"} | {door for door in ("tls", "ws", "wss") if "listen" in self.known.get(door, {})}

    def command(self, directory, door, port):
        self.admin = free_port()
        sections = {name: {"listen": []} for name in ("quic", "tcp", "tls", "ws", "wss") if "listen" in self.known.get(name, {})}
        sections[door]["listen"] = [f"127.0.0.1:{port}"]
        sections |= {
            "broker": {"data_dir": str(directory / "state"), "shards": self.shards if self.shards == "auto" else int(self.shards)},
            "admin": {"listen": [f"127.0.0.1:{self.admin}"]},
            "log": {"level": "error"},
        }
        if self.backend:
            sections["io"] = {"backend": self.backend}
        config = directory / "quelea.toml"
        with config.open("w") as file:
            for name, keys in sections.items():
                file.write(f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
        return [self.program, "--config", config]

    def drops(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        samples = (line.rsplit(" ", 1) for line in lines if "drop" in line and not line.startswith("#"))
        return {name: float(value) for name, value in samples if float(value) > 0}


class Mqttv5(Broker):
    """The broker of mqttv5-cli."""

    def doors(self):
        return {"tcp", "quic"}

    def command(self, directory, door, port):
        words = [self.program, "broker", "--allow-anonymous", "--non-interactive", "--storage-backend", "memory"]
        if door == "tcp":
            return [*words, "--host", f"127.0.0.1:{port}"]
        certificate, key = make_certificate(directory)
        # A certificate opens a door for TLS, too. By default it opens streams of its own for deliveries, which only its own client reads.
        words += ["--host", f"127.0.0.1:{free_port()}", "--tls-host", f"127.0.0.1:{free_port()}", "--quic-host", f"127.0.0.1:{port}"]
        return [*words, "--tls-cert", certificate, "--tls-key", key, "--quic-delivery-strategy", "control-only"]


class Rmqttd(Broker):
    def doors(self):
        return {"tcp", "quic"}

    def command(self, directory, door, port):
        sections = {
            # The plugins that it starts by itself keep statistics and check rights.
            "plugins": {"dir": str(directory), "disabled_default_startups": ["rmqtt-acl", "rmqtt-counter", "rmqtt-http-api"]},
            "log": {"to": "off"},
            "rpc": {"server_addr": f"127.0.0.1:{free_port()}"},
            f"listener.{door}.external": {"addr": f"127.0.0.1:{port}", "allow_anonymous": True, "max_mqueue_len": 1_000_000},
        }
        if door == "quic":
            certificate, key = make_certificate(directory)
            sections[f"listener.{door}.external"] |= {"cert": str(certificate), "key": str(key)}
        config = directory / "rmqtt.toml"
        with config.open("w") as file:
            for name, keys in sections.items():
                file.write(f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
        return [self.program, "-f", config]


def make_broker(name, arguments):
    """The broker of this name; `None`, and a line that says so, if its program is not there."""
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


class Running:
    """A broker that runs, with one listener, in a directory of its own; killed at the end of the `with`."""

    def __init__(self, broker, door, directory):
        self.directory = Path(directory)
        self.directory.chmod(0o755)
        self.port = free_port(socket.SOCK_DGRAM if door == "quic" else socket.SOCK_STREAM)
        command = [str(word) for word in broker.command(self.directory, door, self.port)]
        self.door = door
        with open(self.directory / "broker.log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def becomes_ready(self):
        """Waits until it listens. Returns why it does not, or `None`."""
        deadline = time.monotonic() + PATIENCE_S
        while not listens(self.door, self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                return "it does not start: " + (self.directory / "broker.log").read_text(errors="replace")[-300:].strip()
            time.sleep(0.02)
        return None


def listens(door, port):
    """Whether someone listens: for TCP by connecting, for QUIC by the kernel's list of sockets."""
    if door == "quic":
        wanted = f":{port:04X} "
        return any(wanted in line for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
