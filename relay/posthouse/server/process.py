"""The process around a relay: its event loop and its signals.

SIGTERM and SIGINT stop the relay gracefully, a second one quickly. SIGHUP reads the configuration again and applies
what can change while it runs: the log's level and form, and the TLS certificate.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any, Final

import structlog

from posthouse import logs
from posthouse.config import FIELDS, Config
from posthouse.errors import ConfigError
from posthouse.server.relay import Relay
from posthouse.server.sockets import new_event_loop

APPLIED_AT_ONCE = frozenset({"log.level", "log.format"})
START_PATIENCE_S: Final = 2.0
"""How long a stop waits for a start that it has interrupted to undo what it did."""
_log = structlog.get_logger()


def run(config: Config, read_again: Callable[[], Config]) -> int:
    """Run a relay until it is told to stop; gives the exit code. Raises PosthouseError if it cannot start."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_Process(config, read_again).run())


class _Process:
    def __init__(self, config: Config, read_again: Callable[[], Config]) -> None:
        self._config = config
        self._read_again = read_again
        self._stop = asyncio.Event()
        self._relay: Relay | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_failure)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        relay = Relay(self._config)
        starting = asyncio.create_task(relay.start())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            _log.info("stopping before the start was complete")
            starting.cancel()
            await asyncio.wait((starting,), timeout=START_PATIENCE_S)
            # A thread may still be opening the store, and only the end of the process ends that.
            os._exit(0)
        await starting
        self._relay = relay
        await _first_of(self._stop, relay.fenced)
        fenced = relay.fenced.is_set()
        if fenced:
            _log.error("another promotion owns the store: this relay ends")
        if not await relay.stop():
            # What is promised is synced; to wait for a thread that hangs would only keep the lease from others.
            os._exit(1)
        return 1 if fenced else 0

    def _asked_to_stop(self) -> None:
        if self._stop.is_set() and self._relay is not None:
            _log.info("stopping at once")
            self._relay.hurry()
        self._stop.set()

    def _reload(self) -> None:
        try:
            config = self._read_again()
        except ConfigError as error:
            _log.error("configuration refused, the old one stays", reason=str(error))
        else:
            self._apply(config)
        if self._relay is not None:
            self._relay.reload()

    def _apply(self, config: Config) -> None:
        changed = [
            field.key
            for field in FIELDS.values()
            if _value(config, field.section, field.name) != _value(self._config, field.section, field.name)
        ]
        # Configured on both sides of the line that says so, or a level that hides it would come into force unseen.
        logs.configure("info", config.log.format)
        _log.info(
            "configuration read again",
            applied=[key for key in changed if key in APPLIED_AT_ONCE],
            needs_restart=[key for key in changed if key not in APPLIED_AT_ONCE],
        )
        logs.configure(config.log.level, config.log.format)


def _value(config: Config, section: str, name: str) -> Any:
    return getattr(getattr(config, section), name)


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _log_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Of the context only these two: the rest may show arguments of callbacks, which may be messages.
    _log.error(
        "unhandled error in the event loop", what=context.get("message"), exc_info=context.get("exception")
    )
