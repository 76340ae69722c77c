"""Two ends of a link by themselves: how it begins, that it is kept alive, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest
from posthouse.link.frames import (
    BadFrame,
    Frame,
    Hello,
    Ping,
    Pong,
    Refused,
    Report,
    Splitter,
    Standing,
    Welcome,
    pack,
)
from posthouse.link.talk import SILENT, DialerTalk, ListenerTalk, Me

A = Me("relay", "a", 7)
B = Me("relay", "b", 0)
STANDING = Standing(True, 1, [], None)
REPORT = Report("standby", True)


def body(frame: Frame) -> bytes:
    (only,) = Splitter().feed(pack(frame))
    return bytes(only)


def say(talk: Any, now: float) -> list[Frame]:
    frames, talk.outbox = talk.outbox, []
    if frames:
        talk.sent(now)
    return list(frames)


class Pair:
    """A dialer and a listener, and frames that arrive at once."""

    def __init__(self, dialer: DialerTalk, listener: ListenerTalk) -> None:
        self.dialer, self.listener = dialer, listener
        self.carried: list[Frame] = []

    def carry(self, now: float = 0.0) -> None:
        while self.dialer.outbox or self.listener.outbox:
            for source, target in ((self.dialer, self.listener), (self.listener, self.dialer)):
                for frame in say(source, now):
                    self.carried.append(frame)
                    target.received(body(frame), now)

    def run(self, start: float, end: float) -> None:
        """Ticks when they are due."""
        ends: list[Any] = [self.dialer, self.listener]
        while True:
            first = min(ends, key=lambda talk: talk.due)
            if first.due > end or self.dialer.ended or self.listener.ended:
                return
            assert first.due >= start
            now = first.due
            first.tick(now)
            self.carry(now)


def ended(talk: DialerTalk | ListenerTalk) -> str | None:
    return talk.ended


def linked() -> Pair:
    pair = Pair(DialerTalk(A, 0.0), ListenerTalk(B, 0.0))
    pair.carry()
    assert pair.dialer.established and pair.listener.established
    return pair


def test_both_ends_know_each_other_when_the_link_is_established() -> None:
    pair = linked()
    assert pair.carried == [Hello((1, 1), "relay", "a", 7), Welcome(1, "b")]
    assert (pair.dialer.member, pair.dialer.version, pair.dialer.generation) == ("b", 1, 7)
    assert (pair.listener.member, pair.listener.version, pair.listener.generation) == ("a", 1, 7)


@pytest.mark.parametrize(
    ("dialer", "listener", "agreed"),
    [((1, 1), (1, 3), 1), ((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((1, 4), (2, 3), 3), ((3, 3), (1, 3), 3)],
)
def test_the_highest_common_version_is_spoken(
    dialer: tuple[int, int], listener: tuple[int, int], agreed: int
) -> None:
    pair = Pair(DialerTalk(A, 0.0, versions=dialer), ListenerTalk(B, 0.0, versions=listener))
    pair.carry()
    assert pair.dialer.version == pair.listener.version == agreed


@pytest.mark.parametrize(("dialer", "listener"), [((1, 2), (3, 4)), ((3, 4), (1, 2))])
def test_no_common_version_is_refused_with_both_ranges(
    dialer: tuple[int, int], listener: tuple[int, int]
) -> None:
    pair = Pair(DialerTalk(A, 0.0, versions=dialer), ListenerTalk(B, 0.0, versions=listener))
    pair.carry()
    assert not pair.dialer.established and not pair.listener.established
    expected = "this member speaks link versions {} to {}, not {} to {}".format(*listener, *dialer)
    assert pair.dialer.refused and pair.dialer.ended == f"refused: {expected}" == pair.listener.ended


def test_another_relay_is_refused() -> None:
    pair = Pair(DialerTalk(Me("other", "a", 1), 0.0), ListenerTalk(B, 0.0))
    pair.carry()
    assert pair.dialer.ended == "refused: this member belongs to relay 'relay', not to 'other'"
    assert pair.listener.ended == pair.dialer.ended


def test_a_member_that_dials_itself_or_its_double_is_refused() -> None:
    pair = Pair(DialerTalk(Me("relay", "b", 1), 0.0), ListenerTalk(B, 0.0))
    pair.carry()
    assert pair.dialer.ended == "refused: this is member 'b' itself, or another of the same name"


def test_the_owner_of_the_listener_has_the_last_word() -> None:
    asked: list[Hello] = []

    def admit(hello: Hello) -> str | None:
        asked.append(hello)
        return "no more links"

    pair = Pair(DialerTalk(A, 0.0), ListenerTalk(B, 0.0, admit=admit))
    pair.carry()
    assert asked == [Hello((1, 1), "relay", "a", 7)]
    assert pair.carried[-1] == Refused("no more links")
    assert pair.dialer.ended == "refused: no more links" and not pair.listener.established


@pytest.mark.parametrize("version", [0, 2])
def test_a_version_that_was_not_offered_is_not_spoken(version: int) -> None:
    dialer = DialerTalk(A, 0.0)
    dialer.received(body(Welcome(version, "b")), 0.0)
    assert dialer.ended == f"the listener chose version {version}, which was not offered"
    assert not dialer.established and not dialer.refused


@pytest.mark.parametrize("first", [REPORT, Ping(), Pong()])
def test_a_listener_hears_hello_before_anything_else(first: Frame) -> None:
    listener = ListenerTalk(B, 0.0)
    assert listener.received(body(first), 0.0) is None
    assert listener.ended == f"a frame out of turn: {type(first).__name__.lower()}"
    assert listener.outbox == []


@pytest.mark.parametrize("first", [STANDING, Ping()])
def test_a_dialer_hears_welcome_before_anything_else(first: Frame) -> None:
    dialer = DialerTalk(A, 0.0)
    assert dialer.received(body(first), 0.0) is None
    assert dialer.ended == f"a frame out of turn: {type(first).__name__.lower()}"


def test_nothing_of_the_beginning_is_said_twice() -> None:
    pair = linked()
    pair.dialer.received(body(Welcome(1, "c")), 0.0)
    pair.listener.received(body(Hello((1, 1), "relay", "c", 1)), 0.0)
    assert pair.dialer.ended == "a frame out of turn: welcome"
    assert pair.listener.ended == "a frame out of turn: hello"
    assert (pair.dialer.member, pair.listener.member) == ("b", "a")


def test_frames_of_an_established_link_are_passed_up_and_pings_answered_here() -> None:
    pair = linked()
    assert pair.listener.received(body(REPORT), 1.0) == REPORT
    assert pair.dialer.received(body(STANDING), 1.0) == STANDING
    assert pair.listener.received(body(Ping()), 1.0) is None
    assert pair.listener.outbox == [Pong()]
    assert pair.dialer.received(body(Pong()), 1.0) is None
    assert pair.dialer.outbox == []
    with pytest.raises(BadFrame):
        pair.dialer.received(b"\xc1", 1.0)


@pytest.mark.parametrize("talk", [DialerTalk(A, 10.0), ListenerTalk(B, 10.0)])
def test_a_beginning_takes_two_seconds_at_most(talk: DialerTalk | ListenerTalk) -> None:
    assert talk.due == 12.0
    talk.heard(11.5)  # bytes that are no frame are no progress
    talk.tick(11.99)
    assert ended(talk) is None
    talk.tick(12.0)
    assert talk.ended == "no link was established within 2 s"


def test_an_idle_link_lives_on_by_pings() -> None:
    pair = linked()
    pair.run(0.0, 60.0)
    assert pair.dialer.ended is None and pair.listener.ended is None
    said = pair.carried[2:]
    assert set(map(type, said)) == {Ping, Pong}
    assert 100 <= said.count(Ping()) <= 240


def test_no_ping_is_sent_while_there_is_something_to_say() -> None:
    dialer = linked().dialer
    now = 0.0
    while now < 5.0:
        now += 0.2
        dialer.sent(now)
        dialer.heard(now)
        if now >= dialer.due:
            dialer.tick(now)
    assert dialer.outbox == []
    dialer.tick(dialer.due)
    assert dialer.due - now <= 0.5 + 1e-9
    dialer.tick(now + 0.5)
    assert dialer.outbox == [Ping()]


def test_a_link_from_which_nothing_is_heard_for_three_seconds_is_lost() -> None:
    dialer = linked().dialer
    dialer.heard(1.0)
    times = []
    while ended(dialer) is None:
        times.append(dialer.due)
        dialer.tick(dialer.due)
    assert dialer.ended == SILENT
    assert times[-1] == pytest.approx(4.0)
    assert len(dialer.outbox) >= 5  # it went on asking


def test_half_a_frame_is_a_sign_of_life() -> None:
    dialer = linked().dialer
    while dialer.due < 10.0:
        dialer.heard(dialer.due)
        dialer.tick(dialer.due)
    assert dialer.ended is None


def test_silence_does_not_count_while_our_own_loop_did_not_run() -> None:
    dialer = linked().dialer
    while dialer.due < 2.9:
        dialer.tick(dialer.due)
    late = dialer.due + 0.6
    assert late > 3.0
    dialer.tick(late)
    assert ended(dialer) is None
    while ended(dialer) is None:
        last = dialer.due
        dialer.tick(last)
    assert last == pytest.approx(late + 3.0)


def test_a_loop_that_is_a_little_late_hears_the_silence_all_the_same() -> None:
    dialer = linked().dialer
    while ended(dialer) is None:
        last = dialer.due + 0.4
        dialer.tick(last)
    assert 3.0 <= last <= 3.9


def test_a_beginning_is_not_given_up_because_our_own_loop_did_not_run() -> None:
    dialer = DialerTalk(A, 0.0)
    dialer.tick(30.0)
    assert dialer.ended is None and dialer.due == 32.0
    dialer.received(body(Welcome(1, "b")), 31.0)
    assert dialer.established and dialer.due <= 34.0
