"""Moves the sessions of this front from one upstream to the next, and tells them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog

from posthouse.exchange import Effects
from posthouse.link import frames
from posthouse.link.memory import Memory
from posthouse.server.cluster.local import Local
from posthouse.server.cluster.nobody import Nobody
from posthouse.server.cluster.remote import Link, Remote
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine, boot_s
from posthouse.session.settings import Conditions

FIRST_S: Final = 0.05
"""For so long after a change those that cannot wait have the broker for themselves."""
GO_ON_S: Final = 0.01
GO_ON_SESSIONS: Final = 48
"""Then so many idle sessions go on every ``GO_ON_S``: less than half of what a broker can take from three fronts."""
_log = structlog.get_logger()


class Sessions(Protocol):
    """The front, as the switch sees it."""

    upstream: Upstream

    def wake(self) -> None:
        """The upstream has something."""

    def hand_out(self, effects: Effects) -> None:
        """Send these to their clients."""

    def fail(self, number: int) -> None:
        """A session has to end for a fault of the relay's."""

    def activated(self, epoch: int) -> None:
        """Another instance is active; the upstream has been set."""


class Switch:
    """What the front's upstream is, by what is known of the active instance."""

    def __init__(
        self,
        engine: Engine,
        front: Sessions,
        conditions: Conditions,
        *,
        hold_s: float,
        max_held_bytes: int,
    ) -> None:
        """``hold_s``: after so long without an active instance publishes are rejected."""
        self._engine = engine
        self._front = front
        self._conditions = conditions
        self._hold_s = hold_s
        self._max_held_bytes = max_held_bytes
        self._timer: asyncio.TimerHandle | None = None
        """Of the upstream that there is: it has more to do, or it has taken too long."""
        self.left_at: float | None = None
        """When the last broker ended, by the clock that runs through suspend; None while there is one."""
        self.why_left = ""
        self._to(Nobody(max_held_bytes, front.wake, Memory(), []))

    @property
    def upstream(self) -> Upstream:
        """Where sessions are served."""
        return self._front.upstream

    @property
    def remote(self) -> Remote | None:
        """The broker elsewhere, if that is where."""
        upstream = self.upstream
        return upstream if isinstance(upstream, Remote) else None

    @property
    def out_of_reach(self) -> bool:
        """Whether there has been no broker yet, or none for so long that publishes are rejected."""
        return isinstance(self.upstream, Nobody) and (self.left_at is None or self.upstream.refusing)

    # --- changes

    def to_local(self) -> None:
        """The broker of this process serves."""
        with _collector_paused():
            effects, memory, kept = self.upstream.retire()
            self._front.hand_out(effects)
            local = Local(self._engine, self._front.wake, memory, kept, self._max_held_bytes)
            self._to(local)
        self._attached(self._engine.epoch)
        self._go_on_soon(local, FIRST_S)

    def close_local(self) -> None:
        """It takes no commands any more."""
        if isinstance(self.upstream, Local):
            self.upstream.close()

    def leave_local(self, reason: str) -> None:
        """It is about to be dropped."""
        if isinstance(self.upstream, Local):
            self._to_nobody(reason)

    def to_remote(self, link: Link, epoch: int) -> None:
        """A broker elsewhere serves. Passed over while the own one does."""
        remote = self.remote
        here = isinstance(self.upstream, Local)
        if here or (remote is not None and remote.link is link and remote.epoch == epoch):
            return
        with _collector_paused():
            effects, memory, kept = self.upstream.retire()
            self._front.hand_out(effects)
            remote = Remote(link, epoch, self._front.wake, memory, kept)
            self._to(remote)
        self._attached(epoch)
        self._go_on_soon(remote, FIRST_S)

    def leave_remote(self, reason: str, ago_s: float = 0.0) -> None:
        """The broker elsewhere, or the link to it, has ended; it was last heard of so many seconds ago."""
        if self.remote is not None:
            self._to_nobody(reason, ago_s)

    def received(self, link: Link, frame: frames.Effects) -> None:
        """Effects of a broker elsewhere; those of an earlier attachment are passed over."""
        remote = self.remote
        if remote is not None and remote.link is link and remote.epoch == frame.epoch:
            remote.receive(frame)
            for number in frame.failed:
                self._front.fail(number)

    def stop(self) -> None:
        """No timer fires after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- steps

    def _to_nobody(self, reason: str, ago_s: float = 0.0) -> None:
        _log.info("no active instance", reason=reason)
        self.left_at, self.why_left = boot_s() - ago_s, reason
        with _collector_paused():
            effects, memory, kept = self.upstream.retire()
        self._conditions.epoch = None
        nobody = Nobody(self._max_held_bytes, self._front.wake, memory, kept)
        self._to(nobody)
        self._timer = asyncio.get_running_loop().call_later(self._hold_s, self._refuse, nobody)
        self._front.hand_out(effects)

    def _go_on(self, upstream: Upstream) -> None:
        if self.upstream is not upstream:
            return
        try:
            more = upstream.go_on(GO_ON_SESSIONS)
        except Exception:
            _log.exception("sessions could not go on")
            more = True
        if more and self.upstream is upstream:
            self._go_on_soon(upstream, GO_ON_S)

    def _go_on_soon(self, upstream: Upstream, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._go_on, upstream)

    def _refuse(self, nobody: Nobody) -> None:
        if self.upstream is nobody:
            _log.warning("no instance is active: publishes are rejected", seconds=self._hold_s)
            nobody.refuse()

    def _to(self, upstream: Upstream) -> None:
        self.stop()
        self._front.upstream = upstream

    def _attached(self, epoch: int) -> None:
        self.left_at = None
        self._conditions.epoch = epoch
        self._front.activated(epoch)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Thousands of objects are made at once, and all are kept: collections in between would double the pause."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
