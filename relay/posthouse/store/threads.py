"""A store's two threads: one writes, one reads; whoever asks is answered in its own thread.

Work is done in the order in which it was submitted, the writes by the writer and the reads by the reader.
Every piece of work is answered exactly once, by its result or by the exception that it raised; none ends a thread.
After every write, with its answer on the way, the writer tidies up if it has to.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

import structlog

from posthouse.store.interface import Reader, Store, StoreUnavailable, Writer

T = TypeVar("T")
C = TypeVar("C")
Work = tuple[Callable[[C], object], Callable[[object], object]]

_log = structlog.get_logger()


class Deliver(Protocol):
    """Runs ``call(argument)`` in the thread that asked, later: ``loop.call_soon_threadsafe``."""

    def __call__(self, call: Callable[[object], object], argument: object, /) -> object: ...


class StoreThreads:
    """The writer and the reader of an opened store, each on a thread of its own.

    Opening happens here, in the calling thread: it raises StoreUnusable.
    """

    def __init__(self, store: Store, deliver: Deliver) -> None:
        self.durable = store.durable
        """See ``Store``."""
        self._deliver = deliver
        self._writes: SimpleQueue[Work[Writer] | None] = SimpleQueue()
        self._reads: SimpleQueue[Work[Reader] | None] = SimpleQueue()
        self._writer = store.open_writer()
        try:
            self._reader = store.open_reader()
        except BaseException:
            self._writer.close()
            raise
        self._threads = [
            Thread(target=self._write, name="store-writer", daemon=True),
            Thread(target=self._read, name="store-reader", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit_write(
        self, work: Callable[[Writer], T], answer: Callable[[T | BaseException], object]
    ) -> None:
        """Have ``work`` done by the writer; ``answer`` is called with what it returned or raised."""
        self._writes.put((work, answer))  # type: ignore[arg-type]

    def submit_read(self, work: Callable[[Reader], T], answer: Callable[[T | BaseException], object]) -> None:
        """Have ``work`` done by the reader; ``answer`` is called with what it returned or raised."""
        self._reads.put((work, answer))  # type: ignore[arg-type]

    def close(self) -> None:
        """Finish what was submitted, then close. Blocks; answers may still be on their way."""
        self._writes.put(None)
        self._reads.put(None)
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        while True:
            work = self._writes.get()
            if work is None:
                break
            self._do(work, self._writer)
            self._tidy()
        self._close(self._writer)

    def _tidy(self) -> None:
        try:
            self._writer.tidy()
        except StoreUnavailable as error:
            _log.warning("tidying the store failed", reason=str(error))
        except Exception:
            _log.exception("tidying the store failed")

    def _read(self) -> None:
        while True:
            work = self._reads.get()
            if work is None:
                break
            self._do(work, self._reader)
        self._close(self._reader)

    def _do(self, work: Work[C], connection: C) -> None:
        ask, answer = work
        try:
            result: object = ask(connection)
        except BaseException as error:
            result = error
        try:
            self._deliver(answer, result)
        except RuntimeError:
            _log.warning("an answer of the store came after the loop had ended")

    @staticmethod
    def _close(connection: Writer | Reader) -> None:
        try:
            connection.close()
        except Exception:
            _log.exception("closing the store failed")
