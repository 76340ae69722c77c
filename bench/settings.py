"""What stands behind the address that clients use, in each setting: one server, a relay on PostgreSQL, two relays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import RunFailed
from bench.machine import GENERATOR_CORE, SERVER_CORE, on_core
from bench.members import Members
from bench.plan import Peer, Setting, Subject
from bench.postgres import engine_beside
from bench.processes import cpu_seconds
from bench.results import Faults, Report, Stage
from bench.servers import Installed, Running, running

INSERT_LIMIT_S = 300


@contextmanager
def arranged(subject: Subject, servers: dict[Peer, Installed], folder: Path, pin: bool) -> Iterator[Running]:
    """Everything that the subject needs, started in an empty folder and ended on the way out. Raises RunFailed."""
    server = servers[subject.peer]
    match subject.setting:
        case Setting.ALONE:
            with running(server, folder, pin) as up:
                yield up
        case Setting.ON_POSTGRES:
            with engine_beside(folder) as engine, running(server, folder, pin, engine.url()) as up:
                yield Running((*up.pids, engine.pid), up.address, up.metrics_url)
        case Setting.AT_THE_ACTIVE | Setting.AT_A_FRONT:
            with _pair(subject.setting, folder, pin) as up:
                yield up
        case Setting.RAW_INSERTS:
            raise RunFailed("raw inserts have no address")


@contextmanager
def _pair(setting: Setting, folder: Path, pin: bool) -> Iterator[Running]:
    """The member with the clients is on the server's core, the other beside the load generator."""
    at_front = setting is Setting.AT_A_FRONT
    cores = (GENERATOR_CORE, SERVER_CORE) if at_front else (SERVER_CORE, GENERATOR_CORE)
    with Members(folder, 2, f"sqlite:///{folder}/store.db", cores=cores if pin else ()) as members:
        active, other = members.all
        members.start_in_order()
        named = other if at_front else active
        yield Running((active.pid, other.pid), named.address, f"{active.metrics_url}/metrics")


def insert_raw(messages: int, batch: int, folder: Path, pin: bool) -> Report:
    """The figures of raw inserts, in the form of W2's first half. Raises RunFailed."""
    with engine_beside(folder) as engine:
        command = [*(on_core(SERVER_CORE) if pin else ()), sys.executable, "-m", "bench.raw_inserts"]
        command += ["--dsn", engine.dsn(), "--messages", str(messages), "--batch", str(batch)]
        with subprocess.Popen(
            command, cwd=Path(__file__).resolve().parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as program:  # fmt: skip
            try:
                _line(program)
                before = [cpu_seconds(program.pid), cpu_seconds(engine.pid)]
                _go_on(program)
                found = _line(program)
                after = [cpu_seconds(program.pid), cpu_seconds(engine.pid)]
                _go_on(program)
            finally:
                if program.poll() is None and sys.exc_info()[0] is not None:
                    program.kill()
    seconds, each = float(found["seconds"]), 1e6 / messages
    parts = [(end - start) * each for start, end in zip(before, after, strict=True)]
    stage = Stage(
        messages=messages, seconds=seconds, per_second=messages / seconds, server_cpu_us_per_message=sum(parts),
        server_core_share=sum(parts) / each / seconds, generator_cpu_us_per_message=0.0, generator_core_share=0.0,
        others_core_share=0.0, stolen_core_share=0.0, server_parts_cpu_us_per_message=parts,
    )  # fmt: skip
    return Report("w2", messages, messages, 0, {}, Faults(), {}, offline=stage)


def _line(program: subprocess.Popen[str]) -> dict[str, float]:
    assert program.stdout is not None and program.stderr is not None
    line = program.stdout.readline()
    if not line:
        lines = program.stderr.read().strip().splitlines() or ["no reason given"]
        raise RunFailed(f"the program that inserts ended: {lines[-1][:300]}")
    answer: dict[str, float] = json.loads(line)
    return answer


def _go_on(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()
