"""Runs a machine of the election over a lease: brings it real time, sends its requests, watches.

A thin shell: everything that is decided is decided by the machine (an ``Elector`` or a ``Member``). What it gives out
besides requests goes to ``on_output``, in order, on the event loop. A failure there, in the machine or in the lease is
logged and ends nothing: the machine is called again at its next deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from math import inf
from typing import Any, Final, Generic, TypeVar

import structlog
from msgspec import Struct

from posthouse.single_active.leases.interface import Lease, LeaseConflict, LeaseUnavailable, Record
from posthouse.single_active.outputs import Answer, Machine, Read, Refusal, Request, Write

LONGEST_SLEEP_S: Final = 1.0
"""The loop's timers stand still while the machine is suspended; its clock does not."""
WATCH_AGAIN_S: Final = 0.5
COMPLAIN_S: Final = 10.0
"""The same failure is logged no more often than this."""
AFTER_A_FAILURE_S: Final = 0.5
"""How soon a machine that failed is called again, if its deadline is over already."""
M = TypeVar("M", bound=Machine)
_log = structlog.get_logger()


class Runner(Generic[M]):
    """One machine and its lease, on the running event loop."""

    def __init__(
        self,
        machine: M,
        lease: Lease,
        *,
        clock: Callable[[], float],
        request_timeout_s: float,
        on_output: Callable[[Struct], None],
    ) -> None:
        """``clock``: seconds of one that runs through suspend. ``request_timeout_s``: the machine's own."""
        self.machine = machine
        self._lease = lease
        self._clock = clock
        self._request_timeout_s = request_timeout_s
        self._on_output = on_output
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: deque[Callable[[M, float], Sequence[Struct]]] = deque()
        self._telling = False
        self._closed = False
        self._complained: dict[str, float] = {}
        """When something was logged last that may fail all the time."""

    def start(self, first: Callable[[M, float], Sequence[Struct]]) -> None:
        """Begin to watch, and give the machine its first input."""
        self._run(self._watch())
        self.tell(first)

    def tell(self, call: Callable[[M, float], Sequence[Struct]]) -> None:
        """Give the machine an input: ``tell(lambda member, now: member.hand_over(now, "asked"))``.

        Within ``on_output`` it is done after the outputs that came before.
        """
        self._calls.append(call)
        if self._telling or self._closed:
            return
        self._telling = True
        pause_s = 0.0
        while self._calls and not self._closed:
            try:
                outputs = self._calls.popleft()(self.machine, self._clock())
            except Exception:
                _log.exception("the election failed")
                pause_s = AFTER_A_FAILURE_S
                continue
            for output in outputs:
                self._pass_on(output)
        self._telling = False
        if not self._closed:
            self._set_timer(pause_s)

    async def close(self) -> None:
        """End all tasks. The lease is left as it is: release it before."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- steps

    def _pass_on(self, output: Struct) -> None:
        if isinstance(output, Read | Write):
            self._run(self._request(output))
            return
        try:
            self._on_output(output)
        except Exception:
            _log.exception("what the election asked for failed", asked=type(output).__name__)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self, at_least_s: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self.machine.next_deadline() - self._clock()
        self._timer = self._loop.call_later(max(at_least_s, min(delay, LONGEST_SLEEP_S)), self._wake)

    def _wake(self) -> None:
        if self._clock() >= self.machine.next_deadline():
            self.tell(lambda machine, now: machine.tick(now))
        else:
            self._set_timer()

    async def _request(self, request: Request) -> None:
        answer: Answer
        try:
            async with asyncio.timeout(self._request_timeout_s):
                if isinstance(request, Read):
                    answer = await self._lease.read()
                else:
                    answer = await self._lease.write(request.record, request.expected)
        except LeaseConflict:
            answer = Refusal.CONFLICT
        except (LeaseUnavailable, TimeoutError) as error:
            self._complain("lease request failed", str(error) or "no answer in time")
            answer = Refusal.FAILED
        except Exception:
            _log.exception("lease request failed")
            answer = Refusal.FAILED
        self.tell(lambda machine, now: machine.answered(now, request.id, answer))

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._lease.watch()) as records:
                    async for record in records:
                        self._see(record)
            except LeaseUnavailable as error:
                self._complain("lease watch broke", str(error))
                self.tell(lambda machine, now: machine.unwatched(now))
            except Exception:
                _log.exception("lease watch broke")
                self.tell(lambda machine, now: machine.unwatched(now))
            await asyncio.sleep(WATCH_AGAIN_S)

    def _complain(self, what: str, error: str) -> None:
        """Once, and now and then as long as it goes on: a lease may be away for an hour, and is asked all the time."""
        now = self._clock()
        if now >= self._complained.get(what, -inf) + COMPLAIN_S:
            self._complained[what] = now
            _log.warning(what, error=error)

    def _see(self, record: Record | None) -> None:
        self.tell(lambda machine, now: machine.observed(now, record))
