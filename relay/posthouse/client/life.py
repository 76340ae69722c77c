"""A client's life: one task that keeps one connection, and wakes those who wait for something.

Invariants: at most one connection at a time, and none after the end; a future in ``_futures`` is settled
exactly once, by an event of the core, by the client's end, or by whoever gave up waiting; callbacks of the
caller run on their own turn of the loop, so that an error in one breaks nothing here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, assert_never

from posthouse.client.connection import Connection, ConnectionOptions, Ended
from posthouse.client.core import ClientCore
from posthouse.client.dialing import DialPlan, audience_of_url
from posthouse.client.errors import (
    AudienceMismatch,
    AuthenticationFailed,
    Banned,
    ClientClosed,
    ConnectionFailed,
    PosthouseClientError,
    ProtocolViolation,
    Superseded,
)
from posthouse.client.results import (
    Answered,
    Arrived,
    Later,
    LaterReceipt,
    Leaving,
    Opened,
    OpeningRefused,
    Resolved,
)
from posthouse.wire.codes import FINAL_CLOSE_CODES, CloseCode

_log = logging.getLogger("posthouse.client")


class State(StrEnum):
    """What a client is doing; only in ``connected`` does it do its work."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """The last connection ended or could not be made; it tries again after a moment."""
    FAILED = "failed"
    """It has given up: every call raises why."""
    CLOSED = "closed"
    """The caller has ended it."""


class Life:
    """The moving parts behind a ``Client``."""

    def __init__(
        self,
        core: ClientCore,
        plan: DialPlan,
        options: ConnectionOptions,
        audience: str | None,
        check_audience: bool,
        give_up_after_s: float | None,
        on_state: Callable[[State, str], None] | None,
        on_receipt: Callable[[LaterReceipt], None] | None,
    ) -> None:
        self.core = core
        self.state = State.NEW
        self.detail = ""
        """A line for a person: why the state is what it is."""
        self.failure: PosthouseClientError | None = None
        """Why nothing will happen any more."""
        self._plan = plan
        self._options = options
        self._audience = audience
        self._check_audience = check_audience
        self._give_up_after_s = give_up_after_s
        self._on_state = on_state
        self._on_receipt = on_receipt
        self._connection: Connection | None = None
        self._refusal: PosthouseClientError | None = None
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._changed: asyncio.Future[None] | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._leave_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # --- for the caller's side --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None and self.failure is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="posthouse client")

    def now(self) -> float:
        """The clock of everything here: seconds of the event loop."""
        return asyncio.get_running_loop().time()

    def is_over(self) -> bool:
        """Whether nothing will happen any more."""
        return self.failure is not None

    def raise_if_over(self) -> None:
        """Raises why nothing will happen any more, if that is so."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        if self._task is None:
            raise RuntimeError("enter the client first: async with Client(…) as client")

    def expect(self, ref: int) -> asyncio.Future[Any]:
        """The answer to what the core has just been given under this number."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[ref] = future
        self.wake()
        return future

    def forget(self, ref: int) -> None:
        """Nobody waits for this answer any more."""
        self._futures.pop(ref, None)
        self.core.forget(ref)

    def wake(self) -> None:
        """The core was given something: send it on this turn of the loop, and look at the time."""
        self._handle_events()
        if self._connection is not None and self.core.has_output():
            self._connection.wake()
        deadline = self.core.next_deadline()
        timer = self._deadline_timer
        if deadline is not None and (timer is None or deadline < timer.when()):
            if timer is not None:
                timer.cancel()
            self._deadline_timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    async def changed(self) -> None:
        """Wait until messages, the state or a subscription have changed."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    async def close(self) -> None:
        """End everything; the answers to messages go out first, for at most the close time-out."""
        connected = self.core.welcome is not None
        self._over(ClientClosed(), State.CLOSED, "ended by the caller")
        task = self._task
        if task is None:
            return
        try:
            if self._connection is not None and connected:
                self._connection.leave()
                await asyncio.wait([task], timeout=2 * self._options.close_timeout_s)
        finally:
            task.cancel()
        await asyncio.wait([task])

    def abort(self) -> None:
        """End everything at once; nothing more is sent."""
        self._over(ClientClosed(), State.CLOSED, "ended by the caller")
        if self._task is not None:
            self._task.cancel()

    # --- the task ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        offline_since = self.now()
        delay_s = 0.0
        while not self.is_over():
            await asyncio.sleep(delay_s)
            url = self._plan.current
            self._set_state(State.CONNECTING, f"connecting to {url}")
            connection = self._connection = Connection(url, self._options, self.core, self.wake)
            try:
                ended = await connection.run(self._expected_audience(url))
            finally:
                self._connection = None
                self._cancel_leaving()
            now = self.now()
            if self.state is State.CONNECTED:
                offline_since = now
            if self.is_over() or self._is_final(ended):
                return
            if self._give_up_after_s is not None and now - offline_since >= self._give_up_after_s:
                self._over(ConnectionFailed(ended.detail), State.FAILED, ended.detail)
                return
            self._set_state(State.WAITING, ended.detail)
            chance = random.random()
            plan = self._plan
            dial = plan.left(now, chance) if connection.left else plan.lost(now, ended.close_code, chance)
            delay_s = dial.delay_s

    def _expected_audience(self, url: str) -> str | None:
        return self._audience or (audience_of_url(url) if self._check_audience else None)

    def _is_final(self, ended: Ended) -> bool:
        """Whether nothing is left to try; then everything is over."""
        failure, self._refusal = self._refusal or self._final_failure(ended), None
        if failure is None:
            return False
        if isinstance(failure, AudienceMismatch) and self._plan.drop_current():
            _log.warning("relay address dropped", extra={"reason": str(failure)})
            return False
        self._over(failure, State.FAILED, str(failure))
        return True

    def _final_failure(self, ended: Ended) -> ConnectionFailed | None:
        if ended.close_code not in FINAL_CLOSE_CODES:
            return None
        error = self.core.last_error
        code = error.code if error is not None else None
        detail = f"{ended.detail}: {error.detail}" if error is not None and error.detail else ended.detail
        return _FINAL[CloseCode(ended.close_code)](detail, code)

    def _over(self, failure: PosthouseClientError, state: State, detail: str) -> None:
        if self.state is State.CLOSED:
            return
        self.failure = failure
        futures, self._futures = self._futures, {}
        for ref, future in futures.items():
            self.core.forget(ref)
            _settle(future, failure)
        self._cancel_leaving()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._set_state(state, detail)

    def _set_state(self, state: State, detail: str) -> None:
        if (state, detail) == (self.state, self.detail):
            return
        self.state = state
        self.detail = detail
        _log.debug("client state", extra={"state": state.value, "detail": detail})
        self._notify()
        if self._on_state is not None:
            asyncio.get_running_loop().call_soon(self._on_state, state, detail)

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    # --- events and time --------------------------------------------------------------------------------

    def _handle_events(self) -> None:
        for event in self.core.take_events():
            match event:
                case Resolved():
                    self._settle_ref(event.ref, event.outcome)
                case Arrived():
                    self._notify()
                case Answered():
                    self._settle_ref(event.ref, event.answer)
                case Opened():
                    self._plan.welcomed(self.now())
                    self._set_state(State.CONNECTED, f"connected to {self._plan.current}")
                case Later():
                    if self._on_receipt is not None:
                        asyncio.get_running_loop().call_soon(self._on_receipt, event.receipt)
                case Leaving():
                    self._leave_after(event)
                case OpeningRefused():
                    self._refusal = event.error
                    self._leave()
                case _:
                    assert_never(event)

    def _settle_ref(self, ref: int, answer: object) -> None:
        future = self._futures.pop(ref, None)
        if future is not None:
            _settle(future, answer)

    def _expire(self) -> None:
        self._deadline_timer = None
        self.core.expire(self.now(), None if self.state is State.CONNECTED else self.detail)
        self.wake()

    def _leave_after(self, leaving: Leaving) -> None:
        delay_s = self._plan.goaway(leaving.range_ms, leaving.alternates, random.random())
        self._cancel_leaving()
        self._leave_timer = asyncio.get_running_loop().call_later(delay_s, self._leave)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.leave()

    def _cancel_leaving(self) -> None:
        if self._leave_timer is not None:
            self._leave_timer.cancel()
            self._leave_timer = None


_FINAL: Final[dict[CloseCode, type[ConnectionFailed]]] = {
    CloseCode.BAD_AUTHENTICATION: AuthenticationFailed,
    CloseCode.BANNED: Banned,
    CloseCode.BAD_MESSAGE: ProtocolViolation,
    CloseCode.NO_HELLO: ProtocolViolation,
    CloseCode.SUPERSEDED: Superseded,
}


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if not future.done():
        future.set_result(answer)
