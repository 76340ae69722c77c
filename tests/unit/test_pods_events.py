"""News of a member as Events of its pod: what is told, in which order, and what becomes of it when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, tzinfo

import pytest
from fake_api_server import NAMESPACE, FakeApiServer, api_server, connected
from posthouse.server.news import News
from posthouse.server.pods import events
from posthouse.server.pods.events import MOST_AT_ONCE, MOST_WAITING, TRIES_WITHOUT_RIGHTS, Events
from structlog.testing import capture_logs

WAIT_S = 20.0


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeApiServer]:
    monkeypatch.setattr(events, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(events, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(events, "REQUEST_S", 0.2)
    async with api_server() as made:
        yield made


@asynccontextmanager
async def telling(server: FakeApiServer, pod: str = "relay-0", uid: str = "uid-0") -> AsyncIterator[Events]:
    async with connected(server) as api:
        made = Events(api, NAMESPACE, pod, uid)
        yield made
        await made.close()
        await asyncio.sleep(0)


def numbered(number: int) -> News:
    return News("Promoted", f"news {number}")


def notes(server: FakeApiServer) -> list[str]:
    return [event["note"] for event in server.events]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  what the server was told, which tells nobody
            await asyncio.sleep(0.002)


async def test_an_event_says_what_happened_to_which_pod(server: FakeApiServer) -> None:
    before = datetime.now(UTC)
    async with telling(server) as told:
        told.tell(News("Promoted", "active with epoch 4"))
        told.tell(News("Fenced", "fenced by the store", warning=True))
        await until(lambda: len(server.events) == 2)
    first, second = server.events
    assert (first["type"], first["reason"], first["action"]) == ("Normal", "Promoted", "Promoted")
    assert first["note"] == "active with epoch 4"
    assert (second["type"], second["reason"], second["note"]) == ("Warning", "Fenced", "fenced by the store")
    for event in server.events:
        assert event["regarding"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "relay-0",
            "namespace": NAMESPACE,
            "uid": "uid-0",
        }
        assert event["metadata"]["namespace"] == NAMESPACE
        assert event["metadata"]["name"].startswith("relay-0.")
        assert (event["reportingController"], event["reportingInstance"]) == (
            "posthouse.dev/relay",
            "relay-0",
        )
        assert before <= datetime.fromisoformat(event["eventTime"]) <= datetime.now(UTC)
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_what_happened_while_the_server_was_away_is_told_in_order_with_its_time(
    server: FakeApiServer,
) -> None:
    async with telling(server) as told:
        await server.stop()
        for number in range(3):
            told.tell(numbered(number))
        happened = datetime.now(UTC)
        await asyncio.sleep(0.1)
        server.hang()
        await server.start()
        await until(lambda: len(server.requests) >= 2)
        server.fail_with = 500
        server.go_on()
        refused = len(server.requests)
        await until(lambda: len(server.requests) >= refused + 2)
        server.fail_with = 429
        refused = len(server.requests)
        await until(lambda: len(server.requests) >= refused + 2)
        server.fail_with = 0
        await until(lambda: len(server.events) == 3)
    assert notes(server) == ["news 0", "news 1", "news 2"]
    assert all(datetime.fromisoformat(event["eventTime"]) <= happened for event in server.events)


async def test_of_too_many_that_wait_the_oldest_are_given_up(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_AT_ONCE", 1000)
    async with telling(server) as told:
        server.hang()
        told.tell(numbered(0))
        await until(lambda: server.requests)
        for number in range(1, 3 * MOST_WAITING):
            told.tell(numbered(number))
        server.go_on()
        await until(lambda: len(server.events) == 1 + MOST_WAITING)
    # The one that was under way, and the latest.
    latest = range(2 * MOST_WAITING, 3 * MOST_WAITING)
    assert notes(server) == [f"news {number}" for number in (0, *latest)]


async def test_an_endless_row_of_events_is_thinned_out(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ONE_MORE_S", 0.2)
    monkeypatch.setattr(events, "MOST_WAITING", 1000)
    async with telling(server) as told:
        with capture_logs() as logs:
            for number in range(4 * MOST_AT_ONCE):
                told.tell(numbered(number))
        assert [line["event"] for line in logs] == ["too many events: some are left out"]
        await asyncio.sleep(events.ONE_MORE_S)  # then there is room for one more
        told.tell(News("Fenced", "later"))
        await until(lambda: notes(server)[-1:] == ["later"])
    assert notes(server)[:MOST_AT_ONCE] == [f"news {number}" for number in range(MOST_AT_ONCE)]
    assert len(server.events) <= MOST_AT_ONCE + 2


async def test_an_event_whose_answer_is_lost_is_told_once(server: FakeApiServer) -> None:
    async with telling(server) as told:
        server.lose_answers = 1
        with capture_logs() as logs:
            told.tell(numbered(0))
            told.tell(numbered(1))
            await until(lambda: len(server.events) == 2)
    assert notes(server) == ["news 0", "news 1"]
    assert logs == []


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_an_event_that_is_refused_is_dropped_and_the_next_one_told(
    server: FakeApiServer, status: int
) -> None:
    async with telling(server) as told:
        server.fail_with = status
        with capture_logs() as logs:
            told.tell(numbered(0))
            await until(lambda: logs)
        server.fail_with = 0
        told.tell(numbered(1))
        await until(lambda: server.events)
    assert notes(server) == ["news 1"]
    (line,) = logs
    assert (line["event"], line["kind"]) == ("event refused", "Promoted")
    assert line["reason"].startswith(f"{status} ")


@pytest.mark.parametrize("status", [401, 403])
async def test_an_api_server_that_does_not_know_our_rights_yet_is_asked_again(
    server: FakeApiServer, status: int
) -> None:
    async with telling(server) as told:
        server.fail_with = 503  # it is away, for as long as it may
        told.tell(numbered(0))
        await until(lambda: len(server.requests) >= 2 * TRIES_WITHOUT_RIGHTS)
        server.fail_with = status
        refused = len(server.requests)
        await until(lambda: len(server.requests) >= refused + TRIES_WITHOUT_RIGHTS - 2)
        server.fail_with = 0
        await until(lambda: server.events)
    assert notes(server) == ["news 0"]


class FullSecond(datetime):
    """A clock that always shows one."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> FullSecond:
        return cls(2026, 1, 2, 3, 4, 5, 0, tz)


async def test_the_time_of_an_event_always_has_microseconds(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "datetime", FullSecond)
    async with telling(server) as told:
        told.tell(numbered(0))
    assert datetime.fromisoformat(server.events[0]["eventTime"]).microsecond == 1


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "x" + "é" * 5000, "€" * 342])
async def test_a_long_text_is_cut_to_what_an_event_takes(server: FakeApiServer, text: str) -> None:
    async with telling(server, pod="p" * 200) as told:
        told.tell(News("InDoubt", text))
        await until(lambda: server.events)
    (event,) = server.events
    assert text.startswith(event["note"])
    assert 1020 < len(event["note"].encode()) <= 1024
    assert event["reportingInstance"] == "p" * 128


async def test_closing_tells_what_is_left(server: FakeApiServer) -> None:
    async with telling(server) as told:
        for number in range(5):
            told.tell(numbered(number))
    assert notes(server) == [f"news {number}" for number in range(5)]


async def test_closing_waits_for_an_api_server_that_is_away_for_a_second_at_most(
    server: FakeApiServer,
) -> None:
    loop = asyncio.get_running_loop()
    async with connected(server) as api:
        told = Events(api, NAMESPACE, "relay-0", "uid-0")
        await told.close()  # of nothing
        server.hang()
        told.tell(numbered(0))
        told.tell(numbered(1))
        began = loop.time()
        with capture_logs() as logs:
            await told.close()
        assert 0.9 <= loop.time() - began < 3.0
        assert [(line["event"], line["count"]) for line in logs] == [("events were not told", 2)]
        # Nothing more is told afterwards, but for what is under way.
        server.go_on()
        await asyncio.sleep(0.3)
    assert set(notes(server)) <= {"news 0"}


async def test_without_a_uid_the_pod_is_known_by_its_name(server: FakeApiServer) -> None:
    async with telling(server, uid="") as told:
        told.tell(numbered(0))
    (event,) = server.events
    assert event["regarding"]["name"] == "relay-0"
    assert not event["regarding"].get("uid")
