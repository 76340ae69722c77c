"""The benchmark's own clients against a real relay: nothing they are promised may be missed, no wait uncounted."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import can_mount_tmpfs, need
from relay_process import RelayProcess, free_port

from bench.build import build_load_generator
from bench.errors import BenchError, RunFailed
from bench.faulting import Scene, fill_disk, mount_disk, unmount_disk
from bench.members import Members
from bench.probing import Held, ProberProcess
from bench.wire import Closed, Connection, device_key, take_all
from bench.witness import EpochWatch, LiveReader, sqlite_epoch


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    process = RelayProcess(tmp_path).start()
    yield process
    process.clean_up()


def address(relay: RelayProcess) -> str:
    return f"127.0.0.1:{relay.port}"


def test_what_a_prober_was_promised_over_a_crash_is_there_and_the_wait_is_counted(
    relay: RelayProcess,
) -> None:
    with ProberProcess("one") as prober:
        prober.connect([f"127.0.0.1:{free_port()}", address(relay)])
        prober.run()
        prober.wait_for_more(30)
        prober.mark()
        assert prober.peek()["longest_ms"] < 5_000
        begun = time.monotonic()
        relay.kill()
        relay.start()
        prober.wait_for_more(30)
        away_ms = 1000 * (time.monotonic() - begun)
        figures = prober.pause()
        assert figures["closed"] == 1
        assert 50 < figures["longest_ms"] <= away_ms
        assert len(figures["ids"]) == figures["promised"] >= 60
        assert set(figures["ids"]) <= take_all(address(relay), prober.reader)
        assert take_all(address(relay), prober.reader) == set()


def test_a_prober_with_patience_leaves_a_member_that_says_nothing(
    tmp_path: Path, relay: RelayProcess
) -> None:
    (tmp_path / "other").mkdir()
    other = RelayProcess(tmp_path / "other").start()
    try:
        with ProberProcess("one") as prober:
            prober.connect([address(relay), address(other)], patience_s=0.3)
            prober.run()
            prober.wait_for_more(20)
            relay.signal(signal.SIGSTOP)
            prober.mark()
            prober.wait_for_more(20)
            figures = prober.pause()
            relay.signal(signal.SIGCONT)
        assert figures["codes"] == {"silent": 1}
        assert figures["longest_ms"] >= 300
    finally:
        other.clean_up()


def test_a_connection_that_cannot_be_made_says_why() -> None:
    with pytest.raises(Closed, match="refused"):
        Connection(f"127.0.0.1:{free_port()}", device_key("one"))


def test_a_live_reader_comes_back_and_a_moved_one_misses_nothing(relay: RelayProcess) -> None:
    with ProberProcess("one", interval_ms=1, window=8) as prober:
        prober.connect([address(relay)])
        reader = LiveReader(prober.reader, [f"127.0.0.1:{free_port()}", address(relay)])
        prober.run()
        prober.wait_for_more(100)
        reader.move([address(relay)])
        prober.wait_for_more(100)
        figures = prober.pause()
        reader.end()
        assert reader.connections >= 2
        assert set(figures["ids"]) <= reader.received | take_all(address(relay), prober.reader)


def test_the_epoch_in_the_store_is_read_beside_a_running_relay(relay: RelayProcess) -> None:
    file = relay.folder / "relay.db"
    epoch = sqlite_epoch(file)
    assert epoch == relay.status()["epoch"]
    told = [epoch, epoch + 2, epoch + 1]
    with EpochWatch(lambda: told.pop(0) if len(told) > 1 else told[0]) as watch:
        deadline = time.monotonic() + 10
        while not watch.fallen and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watch.latest == epoch + 2
    assert watch.fallen[0] == f"the epoch in the store fell from {epoch + 2} to {epoch + 1}"


def test_held_sessions_come_back_after_a_crash(relay: RelayProcess) -> None:
    try:
        generator = build_load_generator()
    except BenchError as missing:
        pytest.skip(str(missing))
    with Held(generator, [f"127.0.0.1:{free_port()}", address(relay)], 30, spread_s=0.2) as held:
        held.wait_for_all()
        assert relay.metrics()["posthouse_connections"] == 30
        relay.kill()
        held.wait_for_loss(30)
        relay.start()
        held.wait_for_all()
        assert held.lost == 30


def test_a_member_is_active_ready_and_gone_after_a_kill(tmp_path: Path) -> None:
    with Members(tmp_path, 1, f"sqlite:///{tmp_path}/store.db") as members:
        members.start_in_order()
        member, epoch = members.wait_active()
        assert member is members.all[0]
        assert member.ready()
        member.kill()
        assert (member.runs, member.ready(), member.status(), members.active()) == (False, False, None, None)
        members.start(member)
        assert members.wait_active(above=epoch)[1] > epoch


def test_members_that_cannot_start_are_reported_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.members.READY_LIMIT_S", 2.0)
    with (
        Members(tmp_path, 1, "sqlite:////proc/nothing/store.db") as members,
        pytest.raises(RunFailed, match="not active within 2 s: member 0: "),
    ):
        members.start_in_order()


def test_a_full_disk_is_noticed_by_the_store_and_forgotten_when_it_is_free(tmp_path: Path) -> None:
    need(
        "tmpfs", can_mount_tmpfs(), "no tmpfs can be mounted here: the full disk of the faults is not tested"
    )
    mount_disk(tmp_path)
    try:
        environment = {"POSTHOUSE_STORE_MIN_FREE_BYTES": "0"}
        with (
            Members(tmp_path, 1, f"sqlite:///{tmp_path}/store.db", environment=environment) as members,
            ProberProcess("one", interval_ms=20) as prober,
        ):
            members.start_in_order()
            prober.connect([members.all[0].address])
            prober.run()
            prober.wait_for_more(10)
            assert fill_disk(Scene(members, random.Random(1), disk=tmp_path)) == "disk full, free again"
            prober.wait_for_more(10)
            figures = prober.pause()
            assert set(figures["codes"]) == {"store-unavailable"}
            assert set(figures["ids"]) <= take_all(members.all[0].address, prober.reader)
    finally:
        unmount_disk(tmp_path)
