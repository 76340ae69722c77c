"""The link that is kept: dialed again after every loss, and what a loss proves of the process at its other end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import peer_child
import peer_rig
import pytest
from peer_rig import Recorder, Rig, Stranger, mutual_tls, short_folder, stranger_listening, until
from posthouse.link import talk
from posthouse.link.frames import Hello, Report, Splitter, Welcome, decode_from_dialer
from posthouse.link.talk import Me
from posthouse.server.peers import Link, PeerAddress, PeerDialer
from posthouse.server.peers import dialer as dialer_module
from posthouse.server.peers import dialing as dialing_module
from posthouse.server.peers.dialing import NotConnected, Place, connect
from structlog.testing import capture_logs

LOOPS = peer_rig.LOOPS


@pytest.fixture(params=["unix", "tls"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, mutual_tls(tmp_path) if request.param == "tls" else None)
    yield rig
    await rig.close()


@pytest.fixture
async def unix() -> AsyncIterator[Rig]:
    with short_folder() as folder:
        rig = Rig(Path(folder))
        yield rig
        await rig.close()


class Child:
    """Another process that listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def listening_process(rig: Rig) -> AsyncIterator[Child]:
    """It takes the rig's address, and gives it its port."""
    arguments = [str(rig.address)] if rig.security is None else [str(rig.address), str(rig.folder)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(peer_child.__file__), *arguments, stdout=asyncio.subprocess.PIPE
    )
    child = Child(process)
    try:
        rig.address = PeerAddress.parse(await child.line())
        yield child
    finally:
        await child.kill()
        process._transport.close()  # type: ignore[attr-defined]


async def hello_of(sock: socket.socket) -> tuple[Stranger, Hello]:
    """The next connection of a dialer to a stranger, and how it begins; not those that end unheard."""
    data = b""
    while not data:
        accepted, _ = await asyncio.get_running_loop().sock_accept(sock)
        stranger = Stranger(accepted)
        data = await stranger.read()
        if not data:
            accepted.close()
    (body,) = Splitter().feed(data)
    hello = decode_from_dialer(bytes(body))
    assert isinstance(hello, Hello)
    return stranger, hello


def attempts(logs: Sequence[Mapping[str, Any]]) -> list[object]:
    return [one["reason"] for one in logs if one["event"] == "no link to member"]


# --- proof of death


async def test_a_process_that_is_killed_is_proved_dead_once_for_each_loss(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials = []

    async def counted(address: PeerAddress) -> tuple[socket.socket, Place]:
        dials.append(address)
        return await connect(address)

    monkeypatch.setattr(dialer_module, "connect", counted)
    dialer, dialing = rig.dialer()
    for round_ in (1, 2):
        async with listening_process(rig) as child:
            dialer.follow(str(rig.address))
            await until(lambda: dialing.link)
            await child.kill()
            await until(lambda n=round_: len(rig.refused) == n)  # type: ignore[misc]
            assert len(dialing.whys) == round_
            known = len(dials)
            await until(lambda n=known: len(dials) >= n + 3)  # type: ignore[misc]
    assert rig.refused == [str(rig.address)] * 2


async def test_a_process_that_is_stopped_is_not_proved_dead(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it when it is killed later: its link was given up by us."""
    monkeypatch.setattr(talk, "SILENCE_S", 0.7)
    monkeypatch.setattr(talk, "HANDSHAKE_S", 0.3)
    async with listening_process(rig) as child:
        dialer, dialing = rig.dialer()
        with capture_logs() as logs:
            dialer.follow(str(rig.address))
            await until(lambda: dialing.link)
            child.process.send_signal(signal.SIGSTOP)
            await until(lambda: "no link was established within 0.3 s" in attempts(logs))
            assert dialing.whys == ["silent"]
            await child.kill()
            await until(lambda: "connection refused" in attempts(logs))
    assert rig.refused == []


async def test_a_listener_that_closes_by_itself_is_not_proved_dead(rig: Rig) -> None:
    """Over TLS it says so, and a Unix socket is removed."""
    listener = await rig.listen()
    _, dialing, _ = await rig.link()
    with capture_logs() as logs:
        listener.close()
        await until(lambda: {"connection refused", "no such file or directory"} & set(attempts(logs)))
    assert dialing.whys == ["the other end has closed it"]
    assert rig.refused == []


async def test_a_link_that_we_closed_proves_nothing(rig: Rig) -> None:
    async with listening_process(rig) as child:
        dialer, dialing = rig.dialer()
        dialer.follow(str(rig.address))
        await until(lambda: dialing.link)
        child.process.send_signal(signal.SIGSTOP)  # so that no link comes after this one
        assert dialing.link is not None
        with capture_logs() as logs:
            dialing.link.close("enough")
            await child.kill()
            await until(lambda: "connection refused" in attempts(logs))
    assert rig.refused == []


async def test_where_no_link_was_a_refusal_proves_nothing(unix: Rig) -> None:
    with stranger_listening(Path(str(unix.address.path))):
        pass
    dialer, _ = unix.dialer()
    with capture_logs() as logs:
        dialer.follow(str(unix.address))
        await until(lambda: attempts(logs))
        began = len(logs)
        await asyncio.sleep(0.1)
    assert (
        attempts(logs) == ["connection refused"] and len(logs) == began
    )  # a failure that stays is logged once
    assert unix.refused == []


@pytest.mark.parametrize("unread", [False, True], ids=["end of file", "reset"])
async def test_a_connection_that_a_dying_process_still_took_is_no_sign_of_life(
    unix: Rig, unread: bool
) -> None:
    """Its link may be closed before its listening socket is: the next dial is taken by nobody, and cut."""
    path = Path(str(unix.address.path))
    dialer, dialing = unix.dialer()
    with stranger_listening(path) as sock:
        dialer.follow(str(unix.address))
        stranger, _ = await hello_of(sock)
        await stranger.say(Welcome(1, "b"))
        await until(lambda: dialing.link)
        if unread:
            assert dialing.link is not None
            dialing.link.send(Report("standby", True))
        stranger.sock.close()
        await until(lambda: dialing.whys)
        again, _ = await hello_of(sock)
        again.sock.close()
    await until(lambda: unix.refused)
    assert dialing.whys == ["connection reset by peer" if unread else "the other end has closed it"]
    assert unix.refused == [str(unix.address)]


@pytest.mark.parametrize("how", ["missing", "silent", "refusing", "another"])
async def test_whatever_else_is_met_after_a_loss_ends_the_proof(
    unix: Rig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "HANDSHAKE_S", 0.2)
    path = Path(str(unix.address.path))
    dialer, dialing = unix.dialer()
    with capture_logs() as logs:
        with stranger_listening(path) as sock:
            dialer.follow(str(unix.address))
            stranger, _ = await hello_of(sock)
            await stranger.say(Welcome(1, "b"))
            await until(lambda: dialing.link)
            if how == "missing":
                os.rename(path, f"{path}-aside")
            stranger.sock.close()
            await until(lambda: dialing.whys)
            if how == "missing":
                await until(lambda: "no such file or directory" in attempts(logs))
            elif how == "silent":
                second, _ = await hello_of(sock)
                await until(lambda: "no link was established within 0.2 s" in attempts(logs))
                second.sock.close()
            elif how == "refusing":
                second, _ = await hello_of(sock)
                await second.say(b"\0\0\0\1\xc1")
                assert await second.read() == b""
                second.sock.close()
            else:
                dialer.follow(f"unix:{path}-of-another")
                dialer.follow(str(unix.address))
        with suppress(FileNotFoundError):
            os.rename(f"{path}-aside", path)
        await until(lambda: "connection refused" in attempts(logs))
        await asyncio.sleep(0.05)
    assert unix.refused == []


@pytest.mark.parametrize(
    ("number", "proves"),
    [
        (errno.ECONNREFUSED, True),
        (errno.EHOSTUNREACH, False),
        (errno.ETIMEDOUT, False),
        (errno.ECONNRESET, False),
    ],
)
async def test_of_all_errors_of_tcp_only_a_refusal_proves_anything(
    number: int, proves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(family: int, place: tuple[object, ...]) -> socket.socket:
        raise OSError(number, "of no use")

    monkeypatch.setattr(dialing_module, "_connect_tcp", failing)
    with pytest.raises(NotConnected) as caught:
        await connect(PeerAddress(host="127.0.0.1", port=8081))
    assert caught.value.refused == ({("127.0.0.1", 8081)} if proves else set())
    assert str(caught.value) == os.strerror(number).lower()


async def test_a_connection_that_does_not_come_about_in_time_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialing_module, "CONNECT_S", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = PeerAddress(host="127.0.0.1", port=full.getsockname()[1])
        with socket.socket() as first:
            first.connect(full.getsockname())  # the only place that there is
            with pytest.raises(NotConnected, match="no answer") as caught:
                await connect(address)
    assert caught.value.refused == frozenset()


# --- dialing


async def test_each_dial_has_a_higher_generation(unix: Rig) -> None:
    with stranger_listening(Path(str(unix.address.path))) as sock:
        dialer, _ = unix.dialer(generation=40)
        dialer.follow(str(unix.address))
        generations = []
        for _ in range(4):
            stranger, hello = await hello_of(sock)
            generations.append(hello.generation)
            stranger.sock.close()
    assert generations == [40, 41, 42, 43]


async def test_a_generation_that_the_caller_raises_is_taken(unix: Rig) -> None:
    given = iter([7, 3, 90])
    dialer = PeerDialer(
        None, lambda: Me("relay", "a", next(given)), Recorder(), on_refused=unix.refused.append
    )
    with stranger_listening(Path(str(unix.address.path))) as sock:
        dialer.follow(str(unix.address))
        found = []
        for _ in range(3):
            stranger, hello = await hello_of(sock)
            found.append(hello.generation)
            if len(found) == 3:
                dialer.close()
            stranger.sock.close()
    assert found == [7, 8, 90]


async def test_failures_are_followed_by_longer_pauses(unix: Rig) -> None:
    loop = asyncio.get_running_loop()
    with stranger_listening(Path(str(unix.address.path))) as sock:
        dialer, _ = unix.dialer()
        dialer.follow(str(unix.address))
        times = []
        for _ in range(5):
            stranger, _ = await hello_of(sock)
            stranger.sock.close()
            times.append(loop.time())
        dialer.close()
    waited = times[-1] - times[0]
    assert waited >= 0.02 + 0.04 + 0.08 + 0.16 - 0.02


async def test_a_lasting_link_that_is_lost_is_dialed_again_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "LASTING_S", 0.0)
    monkeypatch.setattr(dialer_module, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(dialer_module, "LONGEST_PAUSE_S", 3600.0)
    await rig.listen()
    _, dialing, listening = await rig.link()
    for round_ in range(3):
        link = rig.handlers[-1].link
        assert link is not None
        link.close("again")
        await until(lambda n=round_: len(rig.handlers) == n + 2 and dialing.link)  # type: ignore[misc]
    assert len(dialing.whys) == 3 and len(listening.whys) == 1


async def test_the_listener_may_come_later(rig: Rig) -> None:
    if rig.security is not None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            rig.address = PeerAddress(host="127.0.0.1", port=free.getsockname()[1])
    dialer, dialing = rig.dialer()
    with capture_logs() as logs:
        dialer.follow(str(rig.address))
        await until(lambda: attempts(logs))
        await rig.listen()
        await until(lambda: dialing.link)
    assert dialing.told == [("established", "b")]
    assert rig.refused == []


async def test_a_name_is_looked_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mutual_tls(tmp_path))
    await rig.listen()
    dialer, dialing = rig.dialer()
    dialer.follow(f"localhost:{rig.address.port}")
    await until(lambda: dialing.link)
    with capture_logs() as logs:
        dialer.follow("no-such-host.invalid:1")
        await until(lambda: attempts(logs))
    assert dialing.whys == ["another address is followed"]
    await rig.close()


# --- following


async def test_another_address_ends_the_old_link_and_begins_the_new(rig: Rig, tmp_path: Path) -> None:
    other = Rig(tmp_path / "other", rig.security)
    await rig.listen("b")
    await other.listen("c")
    dialer, dialing, listening = await rig.link()
    dialer.follow(str(rig.address))  # the same: nothing changes
    assert dialing.whys == []
    dialer.follow(str(other.address))
    assert dialing.told[-1] == ("lost", "another address is followed")
    await until(lambda: dialing.link)
    assert dialing.told[-1] == ("established", "c")
    await until(lambda: listening.whys)
    dialer.follow(None)
    assert dialing.link is None and len(dialing.whys) == 2
    await until(lambda: other.handlers[0].whys)
    assert len(other.handlers) == 1
    assert rig.refused == []
    await other.close()


async def test_what_is_followed_may_change_at_any_moment_of_the_beginning(rig: Rig) -> None:
    listener = await rig.listen()
    dialer, dialing = rig.dialer()
    for turns in range(30):
        dialer.follow(str(rig.address))
        for _ in range(turns):
            await asyncio.sleep(0)
        dialer.follow(None)
        assert dialing.link is None
    await until(lambda: not listener.links())
    dialer.follow(str(rig.address))
    await until(lambda: dialing.link and listener.links())
    assert len(dialing.whys) == len(dialing.told[:-1]) / 2


async def test_a_handler_may_follow_another_when_its_link_is_lost(rig: Rig, tmp_path: Path) -> None:
    other = Rig(tmp_path / "other", rig.security)
    await other.listen("c")
    listener = await rig.listen("b")

    class Turning(Recorder):
        def lost(self, why: str) -> None:
            super().lost(why)
            dialer.follow(str(other.address))

    turning = Turning()
    dialer, _ = rig.dialer(handler=turning)
    dialer.follow(str(rig.address))
    await until(lambda: turning.link)
    third = Rig(tmp_path / "third", rig.security)
    await third.listen("d")
    dialer.follow(str(third.address))  # it is overruled from within
    await until(lambda: turning.link)
    assert turning.told[-1] == ("established", "c")
    assert third.handlers == []
    await third.close()
    assert len(listener.links()) <= 1
    turning.lost = lambda why: Recorder.lost(turning, why)  # type: ignore[method-assign]
    await other.close()


async def test_who_is_told_of_a_death_may_follow_another_at_once(unix: Rig) -> None:
    path = Path(str(unix.address.path))
    other = Rig(unix.folder / "other")
    await other.listen("c")
    handler = Recorder()
    dialer, _ = unix.dialer(handler=handler)
    dialer._on_refused = lambda address: dialer.follow(str(other.address))
    with stranger_listening(path) as sock:
        dialer.follow(str(unix.address))
        stranger, _ = await hello_of(sock)
        await stranger.say(Welcome(1, "b"))
        await until(lambda: handler.link)
        stranger.sock.close()
        sock.close()
    await until(lambda: handler.told[-1] == ("established", "c"))
    await other.close()


async def test_a_link_may_be_closed_as_soon_as_it_is_established(rig: Rig) -> None:
    class Closing(Recorder):
        def established(self, link: Link) -> None:
            super().established(link)
            link.close("not today")

    listener = await rig.listen()
    closing = Closing()
    dialer, _ = rig.dialer(handler=closing)
    dialer.follow(str(rig.address))
    await until(lambda: len(closing.whys) == 3)
    dialer.close()
    assert closing.told == [("established", "b"), ("lost", "not today")] * len(closing.whys)
    await until(lambda: not listener.links())


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "'nonsense' is no peer address; allowed: unix:/absolute/path, HOST:PORT"),
        ("127.0.0.1:1", "links over TCP need peer certificates"),
    ],
)
async def test_an_address_that_cannot_be_dialed_is_logged(unix: Rig, address: str, reason: str) -> None:
    dialer, dialing = unix.dialer()
    with capture_logs() as logs:
        dialer.follow(address)
        await until(lambda: attempts(logs))
        await asyncio.sleep(0.05)
    assert attempts(logs) == [reason]
    assert logs[0]["address"] == address
    await unix.listen()
    dialer.follow(str(unix.address))
    await until(lambda: dialing.link)


async def test_a_listener_that_is_too_busy_to_take_us_is_not_gone(unix: Rig) -> None:
    """A Unix socket refuses nobody for want of room: it says to try again."""
    path = Path(str(unix.address.path))
    with stranger_listening(path) as sock:
        sock.listen(0)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in crowd:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(str(path))
        dialer, dialing = unix.dialer()
        with capture_logs() as logs:
            dialer.follow(str(unix.address))
            await until(lambda: attempts(logs))
        assert attempts(logs) == [os.strerror(11).lower()]
        for one in crowd:
            one.close()
        sock.listen(8)
        stranger, _ = await hello_of(sock)
        await stranger.say(Welcome(1, "b"))
        await until(lambda: dialing.link)
        dialer.close()
        stranger.sock.close()
    assert unix.refused == []
