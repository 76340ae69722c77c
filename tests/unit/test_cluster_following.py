"""The link to the active member: whom it has us follow, when the gap began, and what is asked over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from posthouse.broker import BrokerSettings
from posthouse.exchange import Effects
from posthouse.link import frames
from posthouse.link.talk import SILENCE_S, SILENT
from posthouse.server.cluster import following as following_module
from posthouse.server.cluster.following import Following, NotAsked
from posthouse.server.cluster.switch import Switch
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine, boot_s
from posthouse.server.peers import Link
from posthouse.session.settings import Conditions
from posthouse.store.sqlite import SqliteStore
from posthouse.store.threads import StoreThreads

REPORT = frames.Report("standby", True, "unix:/here")
NOT_READY = frames.Report("standby", False, "unix:/here")


class Wire:
    """What carries a link, without a socket."""

    unsent_bytes = 0

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, frame: frames.Frame) -> None:
        self.sent.append(frame)

    def end(self, why: str) -> None:
        raise AssertionError("nothing ends the link from this side")


class Front:
    """A front without sessions."""

    upstream: Upstream

    def wake(self) -> None:
        pass

    def hand_out(self, effects: Effects) -> None:
        assert effects == []

    def fail(self, number: int) -> None:
        raise AssertionError("there is no session")

    def activated(self, epoch: int) -> None:
        pass


class Rig:
    """One member's end of links, and what it made of them."""

    def __init__(self, engine: Engine) -> None:
        self.ended: list[str] = []
        """Where the next one is, each time."""
        self.report = REPORT
        self.front = Front()
        self.switch = Switch(engine, self.front, Conditions(), hold_s=8, max_held_bytes=2**20)
        self.following = Following(self.switch, report=lambda: self.report, on_ended=self.ended.append)

    def link(self, member: str, *, served: bool) -> Wire:
        """A link is there; whether the member serves."""
        wire = Wire()
        self.following.established(Link(wire, member, 1, 1))
        if served:
            self.following.received(standing(True))
        return wire


def standing(serving: bool, reason: str = "", successor: str = "") -> frames.Standing:
    return frames.Standing(serving, 3, [], None, reason, successor)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    threads = StoreThreads(
        SqliteStore(tmp_path / "relay.db"), asyncio.get_running_loop().call_soon_threadsafe
    )
    engine = Engine(threads, BrokerSettings(), on_fenced=lambda: None)
    rig = Rig(engine)
    yield rig
    rig.switch.stop()
    await engine.close()


async def test_the_active_member_hears_at_once_that_its_service_has_made_us_ready(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.report = NOT_READY
    monkeypatch.setattr(rig.front, "activated", lambda epoch: setattr(rig, "report", REPORT))
    wire = rig.link("a", served=True)
    assert wire.sent == [NOT_READY, REPORT]
    # Each report is answered with a standing: what it knows is not said again.
    rig.following.received(standing(True))
    assert wire.sent == [NOT_READY, REPORT]


async def test_an_active_member_that_fell_silent_was_gone_before_we_knew(rig: Rig) -> None:
    rig.link("a", served=True)
    assert rig.following.active == "a"
    rig.following.lost(SILENT)
    assert rig.switch.left_at is not None
    assert SILENCE_S <= boot_s() - rig.switch.left_at < SILENCE_S + 1
    assert rig.following.standing is None and rig.ended == [""]


@pytest.mark.parametrize("step", ["lost", "ended"])
async def test_one_that_ended_otherwise_is_gone_since_now(rig: Rig, step: str) -> None:
    rig.link("a", served=True)
    if step == "lost":
        rig.following.lost("the other end has closed it")
    else:
        rig.following.received(standing(False, "promote"))
    assert rig.switch.left_at is not None
    assert boot_s() - rig.switch.left_at < 1


async def test_the_next_one_is_taken_from_the_one_that_has_served_us(rig: Rig) -> None:
    rig.link("a", served=True)
    rig.following.received(standing(False, "promote", "unix:/b"))
    assert rig.ended == ["unix:/b"] and rig.switch.why_left == "promote"
    # It says so again, and so does one that is linked anew: that is no news.
    rig.following.received(standing(False, "promote", "unix:/b"))
    rig.following.lost("another address is followed")
    rig.link("c", served=False)
    rig.following.received(standing(False, "promote", "unix:/b"))
    assert rig.ended == ["unix:/b", "", "", ""]
    assert rig.switch.why_left == "promote"


async def test_who_is_linked_says_who_it_is_and_again_when_that_changes(rig: Rig) -> None:
    wire = rig.link("a", served=False)
    assert rig.following.active is None
    rig.following.tell_again()
    assert wire.sent == [REPORT]
    rig.report = frames.Report("standby", False, "unix:/me", store_answers=True)
    rig.following.tell_again()
    assert wire.sent == [REPORT, rig.report]
    rig.following.lost("gone")
    rig.report = REPORT
    rig.following.tell_again()
    assert len(wire.sent) == 2


async def test_each_question_has_its_own_answer(rig: Rig) -> None:
    wire = rig.link("a", served=True)
    first = asyncio.create_task(rig.following.ask("b"))
    second = asyncio.create_task(rig.following.ask("c"))
    await asyncio.sleep(0)
    assert wire.sent[1:] == [frames.Ask(1, "b"), frames.Ask(2, "c")]
    rig.following.received(frames.Answer(2, "c is not ready"))
    rig.following.received(frames.Answer(1, None))
    await first
    with pytest.raises(NotAsked, match="c is not ready"):
        await second


async def test_a_question_without_an_answer_fails_and_a_late_answer_is_passed_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAsked, match="no link to an active member"):
        await rig.following.ask("b")
    rig.link("a", served=True)
    asked = asyncio.create_task(rig.following.ask("b"))
    await asyncio.sleep(0)
    rig.following.lost("gone")
    with pytest.raises(NotAsked, match="the link to the active member was lost"):
        await asked
    rig.link("a", served=True)
    monkeypatch.setattr(following_module, "ANSWER_S", 0.02)
    with pytest.raises(NotAsked, match="does not answer"):
        await rig.following.ask("b")
    rig.following.received(frames.Answer(2, None))
    assert rig.following.active == "a"
