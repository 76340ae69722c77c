"""What the watch sees becomes what sessions and the front go by."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from posthouse.server.memory import MemoryWatermark
from posthouse.server.watch import DiskFloor, Watch
from posthouse.session.settings import Conditions
from posthouse.wire.codes import Code


class Watched:
    """A watch whose memory and disk are numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used_bytes = 0
        self.free_blocks = 1000
        self.front = SimpleNamespace(overloaded=False, count=0)
        self.conditions = Conditions()
        disk: Callable[[Any], Any] = lambda _: SimpleNamespace(f_bavail=self.free_blocks, f_frsize=4096)  # noqa: E731
        monkeypatch.setattr("os.statvfs", disk)
        self.watch = Watch(
            cast(Any, self.front),
            self.conditions,
            MemoryWatermark(1000, lambda: self.used_bytes),
            DiskFloor(Path("/"), 4096 * 100),
            None,
            10,
        )

    def look(self, used_bytes: int = 0, free_blocks: int = 1000) -> tuple[bool, Code | None]:
        self.used_bytes, self.free_blocks = used_bytes, free_blocks
        self.watch.look()
        assert (self.conditions.refuse is None) == (self.conditions.refuse_retry_ms is None)
        return self.front.overloaded, self.conditions.refuse


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_memory_refuses_connections_and_publishes_until_it_has_shrunk(watched: Watched) -> None:
    assert watched.look(999) == (False, None)
    assert watched.look(1001) == (True, Code.RATE_LIMITED)
    assert watched.look(950) == (True, Code.RATE_LIMITED)
    assert watched.look(800) == (False, None)


def test_a_full_disk_refuses_publishes_and_nothing_else(watched: Watched) -> None:
    assert watched.look(free_blocks=99) == (False, Code.STORE_UNAVAILABLE)
    assert watched.look(1001, free_blocks=99) == (True, Code.RATE_LIMITED)
    assert watched.look(0, free_blocks=99) == (False, Code.STORE_UNAVAILABLE)
    assert watched.look(free_blocks=100) == (False, None)


def test_a_relay_that_drains_keeps_saying_so(watched: Watched) -> None:
    watched.conditions.refuse = Code.DRAINING
    watched.conditions.refuse_retry_ms = 1
    assert watched.look(1001) == (True, Code.DRAINING)
    assert watched.look(0) == (False, Code.DRAINING)


def test_the_wall_clock_is_followed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.server.watch.wall_ms", lambda: 1_700_000_000_000)
    monkeypatch.setattr("posthouse.server.watch.boot_s", lambda: 12.5)
    watched.look()
    assert watched.conditions.wall_ms(13.0) == 1_700_000_000_500


def test_a_store_without_a_disk_has_no_floor() -> None:
    floor = DiskFloor(None, 100)
    assert not floor.look() and not floor.reached
