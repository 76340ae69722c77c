"""The one writing connection of a process: fence, promotion, commit, and what to do when a commit fails.

How certain a failure is:

* before COMMIT, and COMMIT refused for lack of space or by another process: nothing was written, for certain
  (a log frame that marks a commit is only valid when it and all before it are there);
* COMMIT failed otherwise, first of all a failed sync: unknown. The kernel may have dropped the pages that it could
  not write and will not say so again. ``resolve`` therefore closes the file, opens it anew and copies the whole log
  into the file: that rewrites and syncs whatever is promised. Only then the fence row tells what is there.

After any failure of input or output the same is done before the next commit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw
from msgspec import Struct

from posthouse.store.interface import (
    FENCED,
    UNKNOWN,
    Batch,
    Committed,
    Doubt,
    Fence,
    MailboxNo,
    Recovered,
    StoreUnavailable,
    StoreUnusable,
    Tally,
    check_promotion,
)
from posthouse.store.locks import Lock
from posthouse.store.sqlite.applying import Applying
from posthouse.store.sqlite.connection import cause, patience, unavailable
from posthouse.store.sqlite.marking import Marking
from posthouse.store.sqlite.schema import roll_back, transaction

CHECKPOINT_PAGES: Final = 8192
"""Log pages after which they are copied into the file (32 MiB). Pages that change often are copied once for many
changes, so the rarer the cheaper: 1.9 µs of CPU a message at 4,096, 0.9 at 16,384; but each time takes longer."""
READS_END_MS: Final = 20
"""How long a checkpoint waits for reads under way to let go of the log: a page takes a few, a backup takes minutes.
Without waiting, a reader that is never idle would keep the log growing."""

_STATE: Final = """
    SELECT epoch, token, incarnation, batch, next_seq, next_stamp, count, bytes, guest_count, guest_bytes FROM relay"""
_ADVANCE: Final = """
    UPDATE relay SET batch = ?, clock_ms = ?, next_seq = ?, next_stamp = ?, count = ?, bytes = ?, guest_count = ?,
        guest_bytes = ?"""


class _State(Struct):
    """The row of the fence as a transaction finds it."""

    fence: Fence
    batch: int
    next_seq: int
    next_stamp: int
    total: Tally


class _Doubtful(Struct):
    """A commit whose outcome is unknown, with the answer for the case that it is there."""

    fence: Fence
    number: int
    answer: Committed


class SqliteWriter:
    """See ``interface.Writer``. ``reopen`` gives a new writing connection and raises StoreUnusable."""

    def __init__(self, path: Path, reopen: Callable[[], apsw.Connection], lock: Lock) -> None:
        self._path = path
        self._reopen = reopen
        self._lock = lock
        self._connection: apsw.Connection | None = None
        self._log_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES
        self._confirmed: tuple[Fence, int] | None = None
        """The last batch known to be there: if the file ever shows an older one, it is not the file that it was."""
        self._doubt: _Doubtful | None = None
        self._suspect = False
        self._use(reopen())

    def _use(self, connection: apsw.Connection) -> None:
        self._connection = connection
        connection.set_wal_hook(self._logged)
        self._marking = Marking(connection, next_stamp=1)

    def _logged(self, connection: apsw.Connection, database: str, pages: int) -> int:
        if pages < self._log_pages:  # it is written over from its beginning
            self._checkpoint_at = CHECKPOINT_PAGES
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"store {self._path}: it is closed after a failure")
        return self._connection

    # --- the fence -------------------------------------------------------------------------------------------

    def relay_id(self) -> str:
        self._be_sound()
        with unavailable(self._path):
            found: str = self._open().execute("SELECT id FROM relay").get
            return found

    def fence(self) -> Fence:
        self._be_sound()
        with unavailable(self._path):
            return _state(self._open()).fence

    def promote(self, seen: Fence, epoch: int, token: bytes) -> Recovered | None:
        check_promotion(seen, epoch, token)
        self._be_sound()
        connection = self._open()
        self._suspect = True  # unless this ends well
        with unavailable(self._path), transaction(connection):
            connection.execute(
                "UPDATE relay SET epoch = ?, token = ?, batch = 0 WHERE epoch = ? AND token = ? AND incarnation = ?",
                (epoch, token, seen.epoch, seen.token, seen.incarnation),
            )
            changed = connection.changes()
            state = _state(connection)
            recovered = _recovered(connection, state) if changed else None
            marking = Marking(connection, state.next_stamp)
        self._suspect = False
        if recovered is not None:
            self._marking = marking
            self._doubt = None  # of a promotion before: what became of its batch is what was found
            self._confirmed = (recovered.fence, 0)
        return recovered

    # --- batches ---------------------------------------------------------------------------------------------

    def commit(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        if self._doubt is not None:
            raise StoreUnavailable(f"store {self._path}: an earlier commit is in doubt")
        self._be_sound()
        return self._write(batch, fence)

    def _write(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            state = _state(connection)
            if state.fence != fence or self._is_older(state) or batch.number <= state.batch:
                connection.execute("ROLLBACK")
                return FENCED
            self._marking.next_stamp = state.next_stamp
            answer = Applying(connection, batch, state.total, self._marking).run()
            connection.execute(_ADVANCE, self._advance(state, batch, answer.total))
        except BaseException as error:
            roll_back(connection)
            raise self._refused(error) from error
        return self._conclude(connection, fence, batch.number, answer)

    def _refused(self, error: BaseException) -> BaseException:
        """What to raise for an error before COMMIT, when for certain nothing was written."""
        if isinstance(error, apsw.BusyError):
            return StoreUnavailable(f"store {self._path}: {cause(error)}")
        self._suspect = True
        if isinstance(error, apsw.Error):
            return StoreUnavailable(f"store {self._path}: {cause(error)}")
        if isinstance(error, StoreUnavailable):
            return StoreUnavailable(f"store {self._path}: {error}")
        if isinstance(error, Exception):
            # Something is missing that is there in every sound file.
            return StoreUnavailable(f"store {self._path}: the batch could not be applied: {error!r}")
        return error

    def _conclude(
        self, connection: apsw.Connection, fence: Fence, number: int, answer: Committed
    ) -> Committed | Doubt:
        try:
            _commit(connection)
        except (apsw.FullError, apsw.BusyError) as error:
            roll_back(connection)
            self._suspect = True
            raise StoreUnavailable(f"store {self._path}: {cause(error)}") from error
        except Exception:
            roll_back(connection)
            self._doubt = _Doubtful(fence, number, answer)
            return UNKNOWN
        self._confirmed = (fence, number)
        return answer

    def _advance(self, state: _State, batch: Batch, total: Tally) -> tuple[int, ...]:
        last = batch.appends[-1].seq if batch.appends else 0
        next_seq = max(state.next_seq, last + 1, batch.reserve_seq or 0)
        counts = (total.count, total.bytes, total.guest_count, total.guest_bytes)
        return (batch.number, batch.clock_ms, next_seq, self._marking.next_stamp, *counts)

    def _is_older(self, state: _State) -> bool:
        """Whether the file has gone back in time, as after a copy was put in its place."""
        return (
            self._confirmed is not None
            and self._confirmed[0] == state.fence
            and state.batch < self._confirmed[1]
        )

    # --- after failures --------------------------------------------------------------------------------------

    def resolve(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        doubt = self._doubt
        if doubt is None or (doubt.fence, doubt.number) != (fence, batch.number):
            raise ValueError(f"batch {batch.number} is not in doubt")
        self._suspect = True
        try:
            self._be_sound()
            with unavailable(self._path):
                state = _state(self._open())
        except StoreUnavailable:
            return UNKNOWN
        self._doubt = None
        if state.fence != fence or state.batch > batch.number or self._is_older(state):
            return FENCED
        if state.batch == batch.number:
            self._confirmed = (fence, batch.number)
            return doubt.answer
        return self._write(batch, fence)

    def _be_sound(self) -> None:
        """After a failure: open the file anew, and write and sync all that the log holds. Raises StoreUnavailable."""
        if not self._suspect and self._connection is not None:
            return
        self._suspect = True
        if self._connection is not None:
            try:
                self._connection.close(force=True)
            except apsw.Error:
                pass  # it is gone in any case
            self._connection = None
        try:
            connection = self._reopen()
        except StoreUnusable as error:
            raise StoreUnavailable(str(error)) from error
        try:
            with unavailable(self._path):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._use(connection)
        except BaseException:
            self._connection = None
            connection.close(force=True)
            raise
        self._suspect = False

    # --- house keeping ---------------------------------------------------------------------------------------

    def tidy(self) -> None:
        if self._log_pages < self._checkpoint_at or self._suspect or self._connection is None:
            return
        self._checkpoint_at = (
            self._log_pages + CHECKPOINT_PAGES
        )  # if somebody still reads from it: not every time
        try:
            with patience(self._connection, READS_END_MS):
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            pass  # a long read, such as a backup, holds the log, or another process is at it
        except apsw.Error as error:
            self._suspect = True
            raise StoreUnavailable(f"store {self._path}: {cause(error)}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close(force=True)
            self._connection = None
        self._lock.release()


def _commit(connection: apsw.Connection) -> None:
    connection.execute("COMMIT")


def _state(connection: apsw.Connection) -> _State:
    row: tuple[Any, ...] = connection.execute(_STATE).get
    return _State(Fence(*row[:3]), row[3], row[4], row[5], Tally(*row[6:]))


def _recovered(connection: apsw.Connection, state: _State) -> Recovered:
    relay_id, clock_ms = connection.execute("SELECT id, clock_ms FROM relay").get
    next_mailbox = connection.execute("SELECT ifnull(max(no), 0) + 1 FROM mailbox").get
    next_expiry = connection.execute("SELECT ifnull(min(expires_at), 0) FROM message").get
    return Recovered(
        fence=state.fence,
        batch=state.batch,
        relay_id=relay_id,
        clock_ms=clock_ms,
        next_seq=state.next_seq,
        next_mailbox=MailboxNo(next_mailbox),
        total=state.total,
        next_expiry=next_expiry,
    )
