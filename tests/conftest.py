"""For all tests: no setting of the caller's environment reaches them, and what could not run is named at the end."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from machine import asked, required

# Fixtures of the tests from outside. Named here, not in their modules, so that their assertions explain themselves.
pytest_plugins = ["cluster_fixtures", "relay_fixtures", "store_fixtures", "wire_fixtures"]

for name in [name for name in os.environ if name.startswith("POSTHOUSE_") and name != "POSTHOUSE_REQUIRE"]:
    del os.environ[name]

# Run in the background of a shell, the suite has SIGINT ignored, and so would have every process that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without this pytest-asyncio asks for a loop "to restore later", which makes one that nobody closes; a later collection
# of garbage then fails whichever test it happens in.
asyncio.set_event_loop(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each distinct reason of a skip, and for each required thing that no test asked about."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"cannot run here: {reason} ({count} skipped)")
    for what in sorted(required() - asked):
        terminalreporter.write_line(f"required here, but no test of this run asked for it: {what}")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module that names its LOOPS has every test on each of them."""
    return getattr(item.module, "LOOPS", {"asyncio": asyncio.new_event_loop})  # type: ignore[attr-defined]
