"""A lease on one machine: an OS lock beside the SQLite file, with a line that says who holds it.

The kernel gives the lock back when its holder ends, however it ends, and the watch hears of it at once. A holder that
is stopped keeps the lock but no longer renews its line: when the elector claims such a lease, the holder is killed
first, by a pidfd whose start time has been compared, so that never another process is hit. Somebody who only locks the
file (a command that purges, an older release) renews nothing and is never killed.

Followers of one machine must see each other's processes: from another PID namespace a holder cannot be killed, and a
claim waits until whoever supervises it has ended it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from posthouse.single_active.leases import file_content, processes
from posthouse.single_active.leases.death import DeathWatch
from posthouse.single_active.leases.file_content import Line
from posthouse.single_active.leases.interface import LeaseConflict, LeaseUnavailable, Process, Record

POLL_S: Final = 0.02
"""How often a follower looks at the line: what a hand-over waits for at most."""
HOLDER_POLL_S: Final = 0.5
"""The holder hears of everything that matters by its renewals."""
POLLS_A_LOCK: Final = 25
"""Every so many looks the lock itself is tried, in case the end of the holder could not be heard."""
LOCK_TRIES: Final = 10
LOCK_PAUSE_S: Final = 0.002
"""Others who only look at the lock hold it for an instant."""
KILL_WAIT_S: Final = 0.5
T = TypeVar("T")


class FileLease:
    """The lock of one store."""

    def __init__(self, store: Path, control_socket: str | None = None, *, poll_s: float = POLL_S) -> None:
        """``store``: the SQLite file. ``control_socket``: told to whoever asks who is active."""
        real = store.resolve()
        self.path = real.with_name(real.name + "-lease")
        self._control_socket = control_socket
        self._poll_s = poll_s
        self._held: int | None = None
        """Descriptor of the locked file."""
        self._started = time.time()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    async def read(self) -> Record | None:
        """Who holds the lock, or that nobody does. Raises LeaseUnavailable."""
        return await self._ask(self._read)

    async def write(self, record: Record, expected: str | None) -> Record:
        """Renew or release what we hold, or take what is free or silent. Raises LeaseConflict, LeaseUnavailable."""
        return await self._ask(lambda: self._write(record, expected))

    async def kill_stopped_holder(self, record: Record) -> bool:
        """Kill the process that wrote this record, if it is still the holder; whether it is gone.

        For a caller with better evidence than a record that is not renewed. Raises LeaseUnavailable.
        """
        return await self._ask(lambda: self._kill(record))

    async def watch(self) -> AsyncGenerator[Record | None, None]:
        """Records as they change. Raises LeaseUnavailable."""
        death = DeathWatch()
        try:
            while True:
                look = await self._ask(self._look)
                record = await self.read()
                yield record
                death.follow(record.process if record is not None and not record.released else None)
                for _ in range(POLLS_A_LOCK):
                    poll_s = self._poll_s if self._held is None else HOLDER_POLL_S
                    if await death.within(poll_s) or await self._ask(self._look) != look:
                        break
        finally:
            death.close()

    async def close(self) -> None:
        """Give the lock back, if it is ours."""
        await self._ask(self._let_go)
        self._thread.shutdown(wait=False)

    # --- on the thread

    async def _ask(self, question: Callable[[], T]) -> T:
        def ask() -> T:
            try:
                return question()
            except OSError as error:
                raise LeaseUnavailable(f"lease file {self.path}: {error.strerror}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, ask)

    def _look(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def _read(self) -> Record | None:
        if self._intact():
            assert self._held is not None
            return file_content.read_line(self._held)[1].record
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            locked = not _lock(descriptor, fcntl.LOCK_SH)
            line = file_content.read_line(descriptor)[1]
        finally:
            os.close(descriptor)
        if not locked:
            return file_content.free(line)
        return line.record or file_content.of_another_kind(line)

    def _write(self, record: Record, expected: str | None) -> Record:
        taken = not self._intact()
        descriptor = self._take(expected) if taken else self._held
        assert descriptor is not None
        try:
            line = file_content.read_line(descriptor)[1]
            if expected is not None and (line.record.version if line.record else "") != expected:
                raise LeaseConflict(f"the lease is not of version {expected} any more")
            if expected is None and line.record is not None:
                raise LeaseConflict("there is a lease by now")
            version = secrets.token_hex(8)
            record = replace(record, version=version)
            file_content.write_line(
                descriptor, Line(os.getpid(), self._started, self._control_socket, record, version)
            )
        except BaseException:
            if taken:
                os.close(descriptor)
            raise
        self._held = descriptor
        if record.released:
            self._let_go()
        return record

    def _take(self, expected: str | None) -> int:
        """Lock the file, after the end of a holder that is silent. Raises LeaseConflict, OSError."""
        if expected is None and self.path.exists():
            raise LeaseConflict("there is a lease by now")
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if new and os.geteuid() == 0:  # a command of root's must not lock out the relay's own user
                owner = self.path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            if not _lock_soon(descriptor):
                holder = file_content.read_line(descriptor)[1].record
                silent = holder is not None and not holder.released and holder.version == expected
                if not (silent and holder is not None and self._kill(holder) and _lock_soon(descriptor)):
                    raise LeaseConflict(f"{self.path} is locked by {holder.holder if holder else 'somebody'}")
            if not _same_file(descriptor, self.path):
                raise LeaseConflict("the lease file was replaced")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _kill(self, record: Record) -> bool:
        held = self._read()
        process = record.process
        if process is None or process.pid == os.getpid() or held is None or held.released:
            return False
        return held.process == process and processes.kill(process, KILL_WAIT_S)

    def _intact(self) -> bool:
        """Whether we hold the lock of the file that is there; one of a file that was deleted is given up."""
        if self._held is not None and not _same_file(self._held, self.path):
            self._let_go()
        return self._held is not None

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def this_process() -> Process | None:
    """What a candidate has to tell of itself so that it can be ended when it is stopped."""
    return processes.this_process()


def _lock(descriptor: int, mode: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        return True
    return False


def _lock_soon(descriptor: int) -> bool:
    for _ in range(LOCK_TRIES):
        if _lock(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(LOCK_PAUSE_S)
    return False


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
