"""The lease in Kubernetes: compared writes, what stands in the object, answers that fail or are lost, and the watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_api_server import NAMESPACE, FakeApiServer, api_server, connected
from msgspec.structs import replace
from posthouse.single_active.leases import kubernetes
from posthouse.single_active.leases.interface import Container, LeaseConflict, LeaseUnavailable, Record
from posthouse.single_active.leases.kubernetes import KubernetesLease
from posthouse.single_active.leases.kubernetes_content import FOREIGN_DURATION_S, PREFIX

NAME = "posthouse"
OURS = Container("relay-0", "uid-0", "containerd://0")
WAIT_S = 20.0
SOON_S = 0.3


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with api_server() as made:
        yield made


def record(holder: str = "me.1", **fields: Any) -> Record:
    return replace(Record(holder, 1, 1, 5.0, f"{holder}:8081", container=OURS), **fields)


@asynccontextmanager
async def opened(
    server: FakeApiServer,
    *,
    namespace: str = NAMESPACE,
    container: Container = OURS,
    silence_s: float = WAIT_S,
    notes: Callable[[], Mapping[str, str]] = dict,
) -> AsyncIterator[KubernetesLease]:
    async with connected(server) as api:
        yield KubernetesLease(api, namespace, NAME, container=container, silence_s=silence_s, notes=notes)


def spec(server: FakeApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.leases[NAME]["spec"]
    return found


def notes_of(server: FakeApiServer) -> dict[str, str]:
    return {
        name.removeprefix(PREFIX): text
        for name, text in server.annotations(NAME).items()
        if name.startswith(PREFIX)
    }


# --- what every lease promises


async def test_a_write_is_done_only_over_the_version_that_is_expected(server: FakeApiServer) -> None:
    async with opened(server) as lease, opened(server) as other:
        assert await lease.read() is None
        first = await lease.write(record(), None)
        assert await other.read() == first == record(version=first.version)
        with pytest.raises(LeaseConflict, match=r"409 .*already exists"):
            await other.write(record("other.2"), None)
        second = await other.write(record("other.2"), first.version)
        assert second.version != first.version
        with pytest.raises(LeaseConflict, match=r"409 .*has been modified"):
            await lease.write(record(stamp=2), first.version)
        assert await lease.read() == second


async def test_of_many_writes_over_one_version_one_is_done(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        made = await lease.write(record(), None)
        tried = [lease.write(record(f"m.{n}", stamp=n), made.version) for n in range(1, 9)]
        results = await asyncio.gather(*tried, return_exceptions=True)
        (done,) = [one for one in results if isinstance(one, Record)]
        assert all(isinstance(one, LeaseConflict) for one in results if one is not done)
        assert await lease.read() == done


async def test_a_version_never_comes_back_also_not_when_the_lease_was_deleted(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        seen = {(first := await lease.write(record(), None)).version}
        server.delete(NAME)
        assert await lease.read() is None
        with pytest.raises(LeaseConflict, match="no lease posthouse any more"):
            await lease.write(record(stamp=2), first.version)
        again = await lease.write(record(stamp=3), None)
        seen.add(again.version)
        with pytest.raises(LeaseConflict):
            await lease.write(record(stamp=4), first.version)
        last = await lease.write(record(stamp=5), again.version)
        assert len(seen | {last.version}) == 3


async def test_somebody_elses_change_is_a_new_version(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        first = await lease.write(record(), None)
        server.put(NAME, server.leases[NAME] | {"metadata": {"labels": {"seen": "yes"}}})
        found = await lease.read()
        assert found is not None and found.version != first.version
        assert replace(found, version=first.version) == first
        with pytest.raises(LeaseConflict):
            await lease.write(record(stamp=2), first.version)


# --- what stands in the object


async def test_fields_are_where_tools_look_for_them(server: FakeApiServer) -> None:
    async with opened(server, notes=lambda: {"epoch": "7"}) as lease:
        first = await lease.write(record(transitions=3), None)
        acquired = spec(server)["acquireTime"]
        assert spec(server) == {
            "holderIdentity": "me.1_uid-0",
            "leaseDurationSeconds": 5,
            "leaseTransitions": 3,
            "acquireTime": acquired,
            "renewTime": acquired,
        }
        assert notes_of(server) == {
            "address": "me.1:8081",
            "container-id": "containerd://0",
            "pod": "relay-0",
            "stamp": "1",
            "epoch": "7",
        }
        second = await lease.write(record(stamp=2, transitions=3), first.version)
        assert spec(server)["acquireTime"] == acquired < spec(server)["renewTime"]
        await lease.write(record(stamp=3, transitions=4), second.version)
        assert spec(server)["acquireTime"] > acquired


class AtAWholeSecond(datetime):
    """A clock that shows no fraction."""

    @classmethod
    def now(cls, tz: object = None) -> AtAWholeSecond:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_times_have_a_fraction_also_at_a_whole_second(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "datetime", AtAWholeSecond)
    async with opened(server) as lease:
        first = await lease.write(record(), None)
        assert spec(server)["acquireTime"] == spec(server)["renewTime"] == "2026-01-02T03:04:05.000001Z"
        await lease.write(record(stamp=2, transitions=2), first.version)
        assert spec(server)["acquireTime"] == spec(server)["renewTime"] == "2026-01-02T03:04:05.000001Z"


async def test_what_others_set_is_kept(server: FakeApiServer) -> None:
    theirs = {
        "labels": {"team": "a"},
        "annotations": {"example.com/by": "somebody", PREFIX + "of-a-later-release": "x"},
        "ownerReferences": [{"kind": "Relay", "name": "r", "uid": "u"}],
    }
    made = server.put(NAME, {"metadata": theirs, "spec": {"strategy": "OldestEmulationVersion"}})
    async with opened(server) as lease:
        found = await lease.read()
        assert found is not None
        await lease.write(record(), found.version)
    after = server.leases[NAME]
    assert after["metadata"]["uid"] == made["metadata"]["uid"]
    assert {name: after["metadata"][name] for name in ("labels", "ownerReferences")} == {
        name: theirs[name] for name in ("labels", "ownerReferences")
    }
    assert theirs["annotations"].items() <= server.annotations(NAME).items()  # type: ignore[attr-defined]
    assert after["spec"]["strategy"] == "OldestEmulationVersion"


async def test_a_released_lease_has_no_holder_and_is_read_as_that_of_the_one_who_released_it(
    server: FakeApiServer,
) -> None:
    async with opened(server) as lease, opened(server) as other:
        first = await lease.write(record(duration_s=1.25), None)
        free = await lease.write(
            record(stamp=2, duration_s=1.25, released=True, successor="unix:/b"), first.version
        )
        assert spec(server)["holderIdentity"] == ""
        assert (free.holder, free.released, free.successor) == ("me.1", True, "unix:/b")
        assert await other.read() == free
        assert {"released-by", "successor", "duration"} <= notes_of(server).keys()
        theirs = Container("relay-1", "uid-1", "")
        other.container = theirs
        taken = await other.write(record("other.2", stamp=1, transitions=2), free.version)
        assert (taken.holder, taken.released, taken.successor, taken.container) == (
            "other.2",
            False,
            "",
            None,
        )
        assert spec(server)["holderIdentity"] == "other.2_uid-1"
        # What does not apply any more is gone, also the container that is not known yet.
        assert notes_of(server) == {"address": "other.2:8081", "pod": "relay-1", "stamp": "1"}


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.5, 4.999, 600.0])
async def test_a_duration_comes_back_as_it_was_and_is_a_whole_number_for_others(
    server: FakeApiServer, seconds: float
) -> None:
    async with opened(server) as lease:
        written = await lease.write(record(duration_s=seconds), None)
        assert written.duration_s == seconds
        assert seconds <= spec(server)["leaseDurationSeconds"] < seconds + 1
        assert ("duration" in notes_of(server)) == (seconds % 1 != 0)


@pytest.mark.parametrize("holder", ["relay-0.a1b2c3", "with_underscores_.a1b2c3", "ünïcode.a1b2c3"])
@pytest.mark.parametrize("uid", ["", "3f1c"])
async def test_a_holder_recognises_itself(server: FakeApiServer, holder: str, uid: str) -> None:
    async with opened(server, container=Container("p", uid, "")) as lease:
        written = await lease.write(record(holder), None)
        assert written.holder == holder
        if uid:
            assert spec(server)["holderIdentity"] == f"{holder}_{uid}"
        released = await lease.write(record(holder, released=True), written.version)
        assert (released.holder, released.released) == (holder, True)


async def test_the_container_is_told_as_soon_as_it_is_known(server: FakeApiServer) -> None:
    async with opened(server, container=replace(OURS, id="")) as lease:
        first = await lease.write(record(), None)
        assert first.container is None
        lease.container = OURS
        assert (await lease.write(record(stamp=2), first.version)).container == OURS


@pytest.mark.parametrize(
    ("lease", "holder", "released", "duration_s"),
    [
        ({}, "", True, FOREIGN_DURATION_S),
        ({"spec": {}}, "", True, FOREIGN_DURATION_S),
        ({"spec": {"holderIdentity": None, "leaseTransitions": None}}, "", True, FOREIGN_DURATION_S),
        ({"spec": {"holderIdentity": "host_0f1e"}}, "host", False, FOREIGN_DURATION_S),
        ({"spec": {"holderIdentity": "host", "leaseDurationSeconds": 40}}, "host", False, 40),
    ],
)
async def test_the_lease_of_another_program_is_read_as_far_as_it_goes(
    server: FakeApiServer, lease: dict[str, Any], holder: str, released: bool, duration_s: float
) -> None:
    server.put(NAME, lease)
    async with opened(server) as ours:
        found = await ours.read()
        assert found is not None
        assert found == Record(holder, 0, 0, duration_s, released=released, version=found.version)
        taken = await ours.write(record(), found.version)
        assert taken.holder == "me.1"


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "nan", "inf", "1e999", "[]"])
async def test_garbage_in_annotations_is_passed_over(server: FakeApiServer, text: str) -> None:
    names = ("duration", "stamp", "epoch", "last-handover")
    annotations = {PREFIX + name: text for name in names}
    server.put(NAME, {"metadata": {"annotations": annotations}, "spec": {"leaseDurationSeconds": 7}})
    async with opened(server) as lease:
        found = await lease.read()
        assert found is not None
        assert (found.stamp, found.duration_s) == (0, 7)


# --- answers that fail


async def test_a_namespace_that_is_missing_is_a_lease_that_cannot_be_asked(server: FakeApiServer) -> None:
    async with opened(server, namespace="nowhere") as lease:
        assert await lease.read() is None
        with pytest.raises(LeaseUnavailable, match=r'^404 namespaces "nowhere" not found$'):
            await lease.write(record(), None)


@pytest.mark.parametrize("status", [401, 403, 422, 429, 500, 503])
async def test_refusals_are_told_in_one_line(server: FakeApiServer, status: int) -> None:
    async with opened(server) as lease:
        written = await lease.write(record(), None)
        server.fail_with = status
        for asked in (
            lease.read(),
            lease.write(record(stamp=2), written.version),
            lease.write(record(stamp=2), None),
            anext(lease.watch()),
        ):
            with pytest.raises(LeaseUnavailable, match=rf"^{status} told to answer {status}$"):
                await asked
        server.fail_with = 0
        assert await lease.read() == written


async def test_a_server_that_is_away_is_told_in_one_line(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        written = await lease.write(record(), None)
        await server.stop()
        for asked in (lease.read(), lease.write(record(stamp=2), written.version), anext(lease.watch())):
            with pytest.raises(LeaseUnavailable) as raised:
                await asked
            assert str(raised.value) and "\n" not in str(raised.value)
        await server.start()
        assert await lease.read() == written


async def test_a_write_whose_answer_is_lost_is_done(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        written = await lease.write(record(), None)
        server.lose_answers = 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await lease.write(record(stamp=2), written.version)
        found = await lease.read()
        assert found is not None and found.stamp == 2
        with pytest.raises(LeaseConflict):
            await lease.write(record(stamp=3), written.version)


async def test_a_connection_that_breaks_leaves_a_write_unknown(server: FakeApiServer) -> None:
    async with opened(server) as lease:
        written = await lease.write(record(), None)
        server.lose_answers = 1
        asked = asyncio.ensure_future(lease.write(record(stamp=2), written.version))
        await until(lambda: server.lose_answers == 0)
        await server.stop()
        with pytest.raises(LeaseUnavailable):
            await asked
        await server.start()
        found = await lease.read()
        assert found is not None and found.stamp == 2


async def test_a_write_that_arrives_late_does_not_undo_a_later_one(server: FakeApiServer) -> None:
    async with opened(server) as lease, opened(server) as other:
        written = await lease.write(record(), None)
        server.hang()
        late = len(server.requests)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await lease.write(record(stamp=2), written.version)
        newer = asyncio.ensure_future(other.write(record("other.2"), written.version))
        await until(lambda: len(server.requests) == late + 2)
        server.go_on()
        with pytest.raises(LeaseConflict):  # the one that was given up is done first
            await newer
        found = await lease.read()
        assert found is not None and found.stamp == 2


@pytest.mark.parametrize("metadata", [{"annotations": {"a": 1}}, {"annotations": []}])
async def test_an_object_that_is_no_lease_is_unavailable_not_free(
    server: FakeApiServer, metadata: dict[str, Any]
) -> None:
    server.put(NAME, {"metadata": metadata, "spec": {}})
    async with opened(server) as lease:
        with pytest.raises(LeaseUnavailable, match=r"^the lease cannot be understood: "):
            await lease.read()


# --- the watch


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  flags of the server, which tell nobody
            await asyncio.sleep(0.002)


async def test_the_watch_tells_what_is_there_and_then_every_change(server: FakeApiServer) -> None:
    async with opened(server) as lease, opened(server) as other, asyncio.timeout(WAIT_S):
        first = await other.write(record(), None)
        server.put("another", {"spec": {"holderIdentity": "not this one"}})
        async with aclosing(lease.watch()) as records:
            assert await anext(records) == first
            server.bookmark()
            server.put("another", {"spec": {"holderIdentity": "nor now"}})
            second = await other.write(record(stamp=2), first.version)
            assert await anext(records) == second
            server.delete(NAME)
            assert await anext(records) is None
            third = await other.write(record(stamp=3), None)
            assert await anext(records) == third


async def test_the_watch_of_a_lease_that_is_not_there_tells_when_it_is(server: FakeApiServer) -> None:
    async with opened(server) as lease, asyncio.timeout(WAIT_S), aclosing(lease.watch()) as records:
        seen = asyncio.ensure_future(anext(records))
        await until(lambda: server.watches)
        written = await lease.write(record(), None)
        assert await seen == written


async def test_a_watch_that_the_server_ends_is_told_and_not_made_again_without_a_pause(
    server: FakeApiServer,
) -> None:
    async with opened(server) as lease, asyncio.timeout(WAIT_S):
        written = await lease.write(record(), None)
        records = lease.watch()
        assert await anext(records) == written
        server.end_watches()
        with pytest.raises(LeaseUnavailable, match=r"^the API server has ended the watch$"):
            await anext(records)
        assert [method for method, _ in server.requests].count("WATCH") == 1
        await until(lambda: not server.watches)
        assert await anext(lease.watch()) == written


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "message": "too old", "metadata": {}},
            },
            "^410 too old$",
        ),
        ({"type": "ERROR", "object": {"metadata": {}}}, "^0 "),
        ({"type": "MODIFIED", "object": {"metadata": {"uid": 1}}}, "^the lease cannot be understood: "),
        ({"object": {"metadata": {}}}, "^the lease cannot be understood: "),
    ],
)
async def test_an_event_that_is_no_record_ends_the_watch(
    server: FakeApiServer, event: dict[str, Any], line: str
) -> None:
    async with opened(server) as lease, asyncio.timeout(WAIT_S):
        await lease.write(record(), None)
        records = lease.watch()
        await anext(records)
        server.send(event)
        with pytest.raises(LeaseUnavailable, match=line):
            await anext(records)


async def test_a_watch_of_which_nothing_is_heard_is_dead_after_that_time_and_not_before(
    server: FakeApiServer,
) -> None:
    loop = asyncio.get_running_loop()
    async with opened(server, silence_s=SOON_S) as lease, asyncio.timeout(WAIT_S):
        written = await lease.write(record(), None)
        records = lease.watch()
        assert await anext(records) == written
        server.silent_watches = True
        began = loop.time()
        written = await lease.write(record(stamp=2), written.version)
        with pytest.raises(LeaseUnavailable, match=r"^nothing is heard of the API server$"):
            await anext(records)
        assert loop.time() - began >= SOON_S - 0.01
        await until(lambda: not server.watches)


async def test_a_server_that_hangs_has_no_watch(server: FakeApiServer) -> None:
    async with opened(server, silence_s=SOON_S) as lease, asyncio.timeout(WAIT_S):
        server.hang()
        with pytest.raises(LeaseUnavailable, match=r"^nothing is heard of the API server$"):
            await anext(lease.watch())


async def test_bookmarks_are_a_sign_of_life(server: FakeApiServer) -> None:
    loop = asyncio.get_running_loop()
    async with opened(server, silence_s=1.0) as lease, asyncio.timeout(WAIT_S):
        written = await lease.write(record(), None)
        async with aclosing(lease.watch()) as records:
            await anext(records)
            seen = asyncio.ensure_future(anext(records))
            end = loop.time() + 2.0
            while loop.time() < end:
                server.bookmark()
                done, _ = await asyncio.wait((seen,), timeout=0.1)
                assert not done
            written = await lease.write(record(stamp=2), written.version)
            assert await seen == written


async def test_closing_a_watch_ends_its_connection(server: FakeApiServer) -> None:
    async with opened(server) as lease, asyncio.timeout(WAIT_S):
        await lease.write(record(), None)
        async with aclosing(lease.watch()) as records:
            await anext(records)
            assert server.watches == 1
        await until(lambda: server.watches == 0)
        await lease.close()


async def test_what_the_holder_says_of_itself_stays_on_a_released_lease_and_goes_with_the_next_claim(
    server: FakeApiServer,
) -> None:
    said = {"epoch": "7", "last-handover": "{}"}
    async with opened(server) as lease, opened(server) as other:
        lease._notes = lambda: said
        held = await lease.write(record(), None)
        assert said.items() <= notes_of(server).items()
        lease._notes = dict  # its broker has ended
        free = await lease.write(record(stamp=2, released=True), held.version)
        assert said.items() <= notes_of(server).items()
        await other.write(record("other.2", stamp=1, transitions=2), free.version)
        assert not said.keys() & notes_of(server).keys()


async def test_transitions_that_somebody_wrote_up_to_the_end_keep_nobody_from_claiming(
    server: FakeApiServer,
) -> None:
    async with opened(server) as lease:
        first = await lease.write(record(transitions=2**31 - 1), None)
        second = await lease.write(record(stamp=2, transitions=2**31), first.version)
        assert spec(server)["leaseTransitions"] == second.transitions == 2**31 - 1
