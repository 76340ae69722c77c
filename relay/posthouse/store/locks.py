"""Two locks of the operating system beside a store's file: who has it open, and who is active.

* ``PATH-open`` is held shared by every process that has the store open for writing, and alone by a restore.
* ``PATH-lease`` is held alone by the active process and tells, as one JSON line, who that is.

The kernel releases a lock when its process ends, however it ends; nothing has to be cleaned up, and the files stay.
Both are advisory: what a promotion may write is decided by the fence in the store. ``flock`` belongs to the open
file, so two holders in one process exclude each other too.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from posthouse.store.interface import StoreUnusable


class LeaseHolder(Struct, omit_defaults=True):
    """Who is active, as the lease file tells."""

    pid: int
    started: float
    """Start of the process in seconds of the Unix epoch: with the pid it names one process."""
    control_socket: str | None = None
    """Path of the Unix socket that takes commands."""


class Lock:
    """A lock that is held until ``release`` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give it up. Doing so again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Lease(Lock):
    """The lock of the active process."""


def _beside(path: Path, suffix: str) -> Path:
    """Of the real file: under whatever name a store is opened, its locks are the same."""
    real = path.resolve()
    return real.with_name(real.name + suffix)


def _acquire(path: Path, mode: int) -> int | None:
    """The descriptor of the locked file, or None if somebody else holds it. Raises StoreUnusable."""
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if new and os.geteuid() == 0:  # a command of root's must not lock out the relay's own user
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StoreUnusable(f"cannot open the lock file {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise StoreUnusable(f"cannot lock {path}: {error.strerror}") from error
    return descriptor


def share_open(path: Path) -> Lock:
    """Say that this process has the store open. Raises StoreUnusable while a restore replaces it."""
    descriptor = _acquire(_beside(path, "-open"), fcntl.LOCK_SH)
    if descriptor is None:
        raise StoreUnusable(f"cannot use {path}: it is being restored")
    return Lock(descriptor)


def own_open(path: Path) -> Lock | None:
    """Keep everybody from opening the store; None if somebody has it open. Raises StoreUnusable."""
    descriptor = _acquire(_beside(path, "-open"), fcntl.LOCK_EX)
    return None if descriptor is None else Lock(descriptor)


def take_lease(path: Path, holder: LeaseHolder) -> Lease | None:
    """Become the active process of the store at ``path``; None if another one is. Raises StoreUnusable."""
    descriptor = _acquire(_beside(path, "-lease"), fcntl.LOCK_EX)
    if descriptor is None:
        return None
    line = msgspec.json.encode(holder) + b"\n"
    try:
        os.pwrite(descriptor, line, 0)  # before cutting, so that a reader never finds it empty
        os.ftruncate(descriptor, len(line))
    except OSError as error:  # such as a full disk
        os.close(descriptor)
        raise StoreUnusable(
            f"cannot write the lock file {_beside(path, '-lease')}: {error.strerror}"
        ) from error
    return Lease(descriptor)


def read_lease_holder(path: Path) -> LeaseHolder | None:
    """Who holds the lease; None if nobody does. Waits for nobody. Raises StoreUnusable.

    Where nobody does, it locks the file for an instant: whoever finds it locked then asks in turn, and tries again.
    Just after a lease has changed hands it may still name the holder before.
    """
    lease = _beside(path, "-lease")
    try:
        descriptor = os.open(lease, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusable(f"cannot read the lease file {lease}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            line = os.read(descriptor, 65536)
        else:
            return None
    finally:
        os.close(descriptor)
    try:
        return msgspec.json.decode(line.partition(b"\n")[0], type=LeaseHolder)
    except msgspec.DecodeError as error:
        raise StoreUnusable(f"the lease file {lease} is held, but does not say by whom: {error}") from error
