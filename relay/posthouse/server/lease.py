"""The lease of a relay on one machine: a lock beside the SQLite file, which the kernel releases when it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from posthouse.config import Config
from posthouse.errors import PosthouseError
from posthouse.store.locks import Lease, LeaseHolder, read_lease_holder, take_lease

ATTEMPTS: Final = 3
"""Somebody who only asks who holds the lease locks it for an instant."""


class LeaseHeld(PosthouseError):
    """Another process is active on this store."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        by = f"process {self.pid}" if self.pid else "another process"
        return f"{self.path} is in use: {by} serves it"


def take(config: Config) -> Lease | None:
    """Take the lease that the configuration asks for; None if it asks for none. Raises LeaseHeld, StoreUnusable."""
    path = config.sqlite_path
    if path is None or config.lease.kind == "none":
        return None
    control = config.control_socket_path
    holder = LeaseHolder(os.getpid(), time.time(), str(control.absolute()) if control else None)
    other: LeaseHolder | None = None
    for _ in range(ATTEMPTS):
        lease = take_lease(path, holder)
        if lease is not None:
            return lease
        other = read_lease_holder(path)
        if other is not None:
            break
    raise LeaseHeld(path, other.pid if other else None)
