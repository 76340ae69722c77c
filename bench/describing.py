"""A new result: when, by which command, on which machine, with which versions."""

from __future__ import annotations

import datetime
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench import machine
from bench.plan import Peer
from bench.results import SCHEMA, Machine, ResultFile
from bench.servers import Installed

PACKAGES = ("apsw", "msgspec", "psycopg", "websockets")


def new_result(words: list[str], servers: dict[Peer, Installed], folder: Path, pin: bool) -> ResultFile:
    """Nothing is measured in it yet. `words` are the command's."""
    return ResultFile(
        schema=SCHEMA, at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=" ".join(["python -m bench", *_public(words)]), machine=_machine(servers, folder, pin),
        load_at_start=os.getloadavg()[0], runs=[], not_measured=[],
    )  # fmt: skip


def _public(words: list[str]) -> list[str]:
    """The command without the names of files."""
    return [word if "/" not in word else Path(word).name for word in words]


def _machine(servers: dict[Peer, Installed], folder: Path, pin: bool) -> Machine:
    versions = {peer.value: server.version for peer, server in servers.items()}
    versions["CPython"] = ".".join(map(str, sys.version_info[:3]))
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Machine(
        cores=os.cpu_count() or 1, processor=machine.processor(), kernel=machine.kernel(),
        file_system=machine.file_system(folder), pinned=pin, versions=versions,
    )  # fmt: skip
