"""Links over real sockets: what both ends are told, and what a listener makes of those who are no members."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import peer_rig
import pytest
from machine import need
from msgspec.structs import replace
from peer_rig import Recorder, Rig, Stranger, mutual_tls, short_folder, stranger_at, until
from posthouse.exchange import Credit, Open
from posthouse.link import talk
from posthouse.link.frames import (
    Ask,
    Commands,
    Effects,
    Hello,
    Ping,
    Pong,
    Refused,
    Report,
    Standing,
    Welcome,
    pack,
)
from posthouse.server import unix_sockets
from posthouse.server.listeners import CannotListen
from posthouse.server.peers import Link, PeerAddress, PeerListener
from posthouse.server.peers.connection import PeerConnection
from posthouse.server.peers.listener import MAX_HALF_OPEN
from posthouse.wire.messages import Message, Publish
from structlog.testing import capture_logs

LOOPS = peer_rig.LOOPS
HELLO = Hello((1, 1), "relay", "a", 5)
STANDING = Standing(True, 3, [], None)


@pytest.fixture(params=["unix", "tls"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, mutual_tls(tmp_path) if request.param == "tls" else None)
    yield rig
    await rig.close()


@pytest.fixture
async def unix() -> AsyncIterator[Rig]:
    """Where a test speaks by itself: its path fits a plain socket."""
    with short_folder() as folder:
        rig = Rig(Path(folder))
        yield rig
        await rig.close()


def gone(stranger: Stranger) -> bool:
    """Whether the listener has closed."""
    try:
        return stranger.sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# --- both ends


async def test_a_link_says_who_is_at_its_other_end(rig: Rig) -> None:
    listener = await rig.listen()
    _, dialing, listening = await rig.link()
    assert dialing.told == [("established", "b")]
    assert listening.told == [("established", "a")]
    assert listener.links() == [listening.link]
    for one in (dialing, listening):
        assert one.link is not None
        assert (one.link.version, one.link.generation, one.link.unsent_bytes) == (1, 1, 0)


async def test_frames_arrive_in_order_both_ways(rig: Rig) -> None:
    await rig.listen()
    _, dialing, listening = await rig.link()
    assert dialing.link is not None and listening.link is not None
    there = [Commands(1, [(n, [Open(None, True, n, 1), Credit(n)])]) for n in range(200)]
    back = [Effects(1, [(n, [])], n) for n in range(200)]
    for command, effect in zip(there, back, strict=True):
        dialing.link.send(command)
        listening.link.send(effect)
    dialing.link.send(Ask(1, "a"))
    listening.link.send(STANDING)
    await until(lambda: len(dialing.frames) == 201 == len(listening.frames))
    assert listening.frames == [*there, Ask(1, "a")]
    assert dialing.frames == [*back, STANDING]


async def test_a_frame_of_many_megabytes_arrives_whole(rig: Rig) -> None:
    await rig.listen()
    _, dialing, listening = await rig.link()
    assert dialing.link is not None and listening.link is not None
    ciphertext = os.urandom(1_000_003)
    batch = Commands(1, [(n, [Publish(n, ciphertext, bucket="b")]) for n in range(9)])
    dialing.link.send(batch)
    effects = Effects(1, [(1, [Message("i", n, ciphertext, 1, 2, 1) for n in range(9)])], 1)
    listening.link.send(effects)
    listening.link.send(STANDING)
    await until(lambda: listening.frames and len(dialing.frames) == 2)
    assert listening.frames == [batch]
    assert dialing.frames == [effects, STANDING]


async def test_what_the_other_end_does_not_take_waits_and_blocks_nobody(rig: Rig) -> None:
    await rig.listen()
    _, dialing, listening = await rig.link()
    assert dialing.link is not None and listening.link is not None
    # Both ends are served by this loop: while this test does not wait, the dialer reads nothing.
    frame = Effects(1, [(1, [Message("i", 1, bytes(1_000_000), 1, 2, 1)])], 1)
    unsent = []
    for _ in range(30):
        listening.link.send(frame)
        unsent.append(listening.link.unsent_bytes)
    assert unsent[-1] > 10_000_000
    assert unsent == sorted(unsent)
    assert unsent[-1] - unsent[-2] >= 1_000_000  # all of it is counted, also with TLS
    dialing.link.send(Report("standby", True))
    await until(lambda: len(dialing.frames) == 30)
    await until(lambda: listening.frames)
    assert listening.link.unsent_bytes == 0
    assert dialing.told[1:] == [frame] * 30


@pytest.mark.parametrize("side", ["dialer", "listener"])
async def test_the_end_of_a_link_is_told_once_and_its_last_words_arrive(rig: Rig, side: str) -> None:
    listener = await rig.listen()
    dialer, dialing, listening = await rig.link()
    near, far = (dialing, listening) if side == "dialer" else (listening, dialing)
    assert near.link is not None
    link = near.link
    last = Report("draining", True) if side == "dialer" else STANDING
    link.send(last)
    link.close("enough")
    assert near.told[-1] == ("lost", "enough")  # already
    link.close("again")
    link.send(last)
    assert link.unsent_bytes == 0
    await until(lambda: far.whys)
    assert far.told[1:3] == [last, ("lost", "the other end has closed it")]
    await until(lambda: listener.links() and dialing.link is not None)  # the dialer dials again
    assert near.whys == ["enough"] and far.whys == ["the other end has closed it"]
    dialer.close()
    assert dialing.whys[-1] == "another address is followed"


async def test_a_handler_that_fails_loses_its_link_and_hears_of_it(rig: Rig) -> None:
    class Failing(Recorder):
        def received(self, frame: object) -> None:
            raise ValueError("of no use")

    await rig.listen()
    failing = Failing()
    dialer, _ = rig.dialer(handler=failing)
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    dialer.follow(str(rig.address))
    await until(lambda: rig.handlers and rig.handlers[0].link)
    link = rig.handlers[0].link
    assert link is not None
    link.send(STANDING)
    await until(lambda: failing.whys)
    assert failing.whys == ["of no use"]
    assert isinstance(reported[0], ValueError)
    await until(lambda: failing.link is not None)  # a new one


async def test_an_idle_link_lives_and_a_silent_one_is_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "PING_AFTER_S", 0.02)
    monkeypatch.setattr(talk, "SILENCE_S", 0.3)
    await rig.listen()
    _, dialing, listening = await rig.link()
    began = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > began + 0.7)
    assert dialing.told == [("established", "b")] and listening.told == [("established", "a")]


async def test_a_dialer_gives_up_a_listener_that_falls_silent(
    unix: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "SILENCE_S", 0.2)
    path = Path(str(unix.address.path))
    with peer_rig.stranger_listening(path) as sock:
        dialer, dialing = unix.dialer()
        dialer.follow(str(unix.address))
        accepted, _ = await asyncio.get_running_loop().sock_accept(sock)
        with accepted:
            await Stranger(accepted).say(Welcome(1, "b"))
            await until(lambda: dialing.whys)
            assert dialing.whys == ["silent"]
            dialer.close()
    assert unix.refused == []


async def test_a_frame_that_comes_slowly_is_no_silence(unix: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "SILENCE_S", 0.4)
    loop = asyncio.get_running_loop()
    await unix.listen()
    with stranger_at(unix.address) as stranger:
        await stranger.say(HELLO)
        assert await stranger.hear() == Welcome(1, "b")
        await stranger.say((1000).to_bytes(4, "big"))
        end = loop.time() + 1.2
        while loop.time() < end:
            await stranger.say(b"x")
            await asyncio.sleep(0.02)
        assert unix.handlers[0].whys == []
        await until(lambda: unix.handlers[0].whys)
    assert unix.handlers[0].whys == ["silent"]


async def test_the_first_word_waits_for_tls_however_late_the_loop_is() -> None:
    class Owner:
        def established(self, connection: PeerConnection, link: Link) -> Recorder:
            raise AssertionError("nobody has answered")

        def ended(self, connection: PeerConnection) -> None:
            pass

    class Transport(asyncio.Transport):
        said = b""

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.said += bytes(data)

        def close(self) -> None:
            pass

        abort = close

    me = talk.Me("relay", "a", 5)
    connection = PeerConnection(Owner(), lambda now: talk.DialerTalk(me, now - 60), unix=False)
    transport = Transport()
    connection.connection_made(transport)
    await asyncio.sleep(0.01)  # its time is long over, by our own fault
    assert connection.why is None and transport.said == b""
    connection.secured()
    assert transport.said == pack(HELLO)
    connection.connection_lost(None)


# --- who is let in


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (replace(HELLO, relay="other"), "this member belongs to relay 'relay', not to 'other'"),
        (replace(HELLO, versions=(2, 9)), "this member speaks link versions 1 to 1, not 2 to 9"),
        (replace(HELLO, member="b"), "this is member 'b' itself, or another of the same name"),
    ],
)
async def test_who_is_refused_is_told_why_and_the_log_too(unix: Rig, hello: Hello, reason: str) -> None:
    listener = await unix.listen()
    with capture_logs() as logs, stranger_at(unix.address) as stranger:
        await stranger.say(hello)
        assert await stranger.hear() == Refused(reason)
        assert await stranger.hear() is None
    assert logs == [
        {
            "event": "link refused",
            "log_level": "warning",
            "address": str(unix.address),
            "reason": f"refused: {reason}",
        }
    ]
    assert listener.links() == [] and unix.handlers == []


async def test_a_dialer_that_is_refused_says_why_once_and_tries_on(rig: Rig) -> None:
    await rig.listen()
    dialer, dialing = rig.dialer(relay="other")
    with capture_logs() as logs:
        dialer.follow(str(rig.address))
        await until(lambda: sum(one["event"] == "link refused" for one in logs) >= 3)
    told = [one["reason"] for one in logs if one["event"] == "no link to member"]
    assert told == ["refused: this member belongs to relay 'relay', not to 'other'"]
    assert dialing.told == [] and rig.refused == []


async def test_a_newer_link_of_a_member_ends_the_older(unix: Rig) -> None:
    listener = await unix.listen()
    with stranger_at(unix.address) as old, stranger_at(unix.address) as new:
        await old.say(HELLO)
        assert await old.hear() == Welcome(1, "b")
        await new.say(replace(HELLO, generation=6))
        assert await new.hear() == Welcome(1, "b")
        assert await old.hear() is None
        first, second = unix.handlers
        assert first.whys == ["a newer link of the same member has come"]
        assert second.told == [("established", "a")]
        assert [link.generation for link in listener.links()] == [6]
    await until(lambda: second.whys)
    assert listener.links() == []


@pytest.mark.parametrize("generation", [4, 5])
async def test_an_older_link_of_a_member_is_refused(unix: Rig, generation: int) -> None:
    await unix.listen()
    with stranger_at(unix.address) as there, stranger_at(unix.address) as late:
        await there.say(HELLO)
        assert await there.hear() == Welcome(1, "b")
        await late.say(replace(HELLO, generation=generation))
        assert await late.hear() == Refused(
            f"a link of 'a' with generation 5 is there, not below {generation}"
        )
        assert not gone(there) and unix.handlers[0].whys == []
    await until(lambda: unix.handlers[0].whys)
    with stranger_at(unix.address) as again:  # once the link is lost, any generation will do
        await again.say(replace(HELLO, generation=1))
        assert await again.hear() == Welcome(1, "b")


async def test_only_so_many_members_are_linked(unix: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.server.peers.listener.MAX_LINKS", 1)
    listener = await unix.listen()
    with stranger_at(unix.address) as first, stranger_at(unix.address) as second:
        await first.say(HELLO)
        assert await first.hear() == Welcome(1, "b")
        await second.say(replace(HELLO, member="c"))
        assert await second.hear() == Refused("1 members are linked already")
        with stranger_at(unix.address) as newer:
            await newer.say(replace(HELLO, generation=9))
            assert await newer.hear() == Welcome(1, "b")
        assert len(listener.links()) <= 1


async def test_only_so_many_connections_are_beginning(unix: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "HANDSHAKE_S", 1.0)
    await unix.listen()
    idle = [socket.socket(socket.AF_UNIX) for _ in range(MAX_HALF_OPEN)]
    with capture_logs() as logs:
        for sock in idle:
            sock.connect(str(unix.address.path))
        with stranger_at(unix.address) as one_more:
            assert await one_more.hear() is None
        assert [one["reason"] for one in logs] == ["too many connections are beginning"]
        # Each has a while to say who it is; then there is room again.
        await until(lambda: len(logs) == 1 + MAX_HALF_OPEN)
    assert {one["reason"] for one in logs[1:]} == {"no link was established within 1 s"}
    with stranger_at(unix.address) as stranger:
        await stranger.say(HELLO)
        assert await stranger.hear() == Welcome(1, "b")
    for sock in idle:
        sock.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes is above 16384"),
        ((16_385).to_bytes(4, "big"), "a frame of 16385 bytes is above 16384"),
        (b"\0\0\0\1\xc1", "a frame cannot be read: "),
        (pack(Ping()), "a frame out of turn: ping"),
        (pack(Report("active", True)), "a frame out of turn: report"),
        (pack(HELLO)[:-3], "the other end has closed it"),
    ],
)
async def test_who_does_not_say_hello_is_shut_out(unix: Rig, said: bytes, reason: str) -> None:
    await unix.listen()
    with capture_logs() as logs:
        with stranger_at(unix.address) as stranger:
            await stranger.say(said)
            if "closed" not in reason:
                assert await stranger.read() == b""
        await until(lambda: logs)
    assert logs[0]["event"] == "link refused" and logs[0]["reason"].startswith(reason)
    assert unix.handlers == []


async def test_who_only_looks_whether_the_port_is_open_is_not_worth_a_line(unix: Rig) -> None:
    listener = await unix.listen()
    with capture_logs() as logs:
        for _ in range(MAX_HALF_OPEN + 4):
            with stranger_at(unix.address):
                pass
            await asyncio.sleep(0)
        with stranger_at(unix.address) as stranger:
            await stranger.say(HELLO)
            assert await stranger.hear() == Welcome(1, "b")
        await until(lambda: not listener.links())
    assert [one["event"] for one in logs] == ["member linked", "link of a member ended"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\0\0\0\1\xc1", "a frame cannot be read: "),
        (b"\x04\0\0\1", "a frame of 67108865 bytes is above 67108864"),
        (pack(HELLO), "a frame out of turn: hello"),
    ],
)
async def test_nonsense_on_a_link_ends_it_and_what_came_before_counts(
    unix: Rig, said: bytes, why: str
) -> None:
    await unix.listen()
    with stranger_at(unix.address) as stranger:
        await stranger.say(HELLO)
        assert await stranger.hear() == Welcome(1, "b")
        await stranger.say(pack(Report("standby", True)) + said + pack(Report("active", True)))
        await until(lambda: unix.handlers[0].whys)
        assert await stranger.hear() is None
    (told,) = unix.handlers
    assert told.frames == [Report("standby", True)]
    assert told.whys[0].startswith(why)


async def test_frames_may_come_a_byte_at_a_time(unix: Rig) -> None:
    await unix.listen()
    with stranger_at(unix.address) as stranger:
        for byte in pack(HELLO) + pack(Report("standby", True)) + pack(Ping()):
            await stranger.say(bytes([byte]))
            await asyncio.sleep(0)
        assert await stranger.hear() == Welcome(1, "b")
        assert await stranger.hear() == Pong()
        assert unix.handlers[0].frames == [Report("standby", True)]


async def test_a_process_of_another_user_is_not_spoken_with(unix: Rig) -> None:
    need("root", os.getuid() == 0, "this is not root: no process of another user on a peer socket")
    await unix.listen()
    path = str(unix.address.path)
    os.chmod(unix.folder, 0o711)
    os.chmod(path, 0o666)  # the kernel's own check would hide ours
    code = (
        "import os, socket; os.setuid(4711); s = socket.socket(socket.AF_UNIX); "
        f"s.connect({path!r}); print(s.recv(1))"
    )
    with capture_logs() as logs:
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", code, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await other.communicate()
    assert said == b"b''\n"
    assert [one["reason"] for one in logs] == ["a process of user 4711 is at the other end"]


@pytest.mark.parametrize(("uid", "ours", "found"), [(7, 7, None), (0, 7, None), (8, 7, 8), (8, 0, 8)])
def test_only_our_own_user_and_root_are_no_strangers(
    uid: int, ours: int, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Socket:
        def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
            assert (level, optname, buflen) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return struct.pack("3i", 1, uid, 5)

    monkeypatch.setattr(os, "geteuid", lambda: ours)
    assert unix_sockets.stranger(Socket()) == found


# --- the Unix socket


async def test_a_socket_is_for_its_user_alone_wherever_it_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    rig = Rig(deep)
    listener = await rig.listen()
    found = os.lstat(deep / "peer.sock")
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
    assert os.listdir(deep) == ["peer.sock"]
    await rig.link()
    listener.close()
    assert os.listdir(deep) == []
    await rig.close()


async def test_a_folder_that_is_missing_is_made_for_its_user_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "new")
    await rig.listen()
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700
    await rig.link()
    await rig.close()


async def test_the_socket_of_a_dead_process_is_replaced(unix: Rig) -> None:
    with peer_rig.stranger_listening(Path(str(unix.address.path))):
        pass
    assert os.listdir(unix.folder) == ["peer.sock"]
    await unix.listen()
    await unix.link()


async def test_the_socket_of_a_process_that_lives_is_not(unix: Rig) -> None:
    await unix.listen()
    with pytest.raises(CannotListen, match="another process listens there"):
        await unix.listen("c")
    await unix.link()


async def test_the_socket_of_a_process_that_is_only_busy_is_not(unix: Rig) -> None:
    with peer_rig.stranger_listening(Path(str(unix.address.path))) as sock:
        sock.listen(0)
        with stranger_at(unix.address), pytest.raises(CannotListen, match="another process listens there"):
            await unix.listen()


async def test_a_folder_where_nobody_replaces_the_files_of_others_will_do(unix: Rig) -> None:
    os.chmod(unix.folder, 0o1777)
    await unix.listen()
    await unix.link()


async def test_a_socket_that_another_has_taken_over_is_left_alone(unix: Rig) -> None:
    listener = await unix.listen()
    with peer_rig.stranger_listening(Path(str(unix.address.path))):
        listener.close()
        assert os.listdir(unix.folder) == ["peer.sock"]


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: (folder / "peer.sock").write_text("data"), "there is something else"),
        (lambda folder: folder.chmod(0o777), "everybody can write in its folder"),
        (lambda folder: folder.rmdir() or folder.write_text("a file"), "file exists"),
    ],
)
async def test_where_no_socket_can_be_is_said(
    tmp_path: Path, prepare: Callable[[Path], object], reason: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(folder)
    rig = Rig(folder)
    with pytest.raises(CannotListen) as caught:
        await rig.listen()
    assert str(caught.value) == f"cannot listen on unix:{folder}/peer.sock: {reason}"


async def test_a_folder_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:
        os.chown(tmp_path, 4711, -1)
    with pytest.raises(CannotListen, match=r"its folder belongs to user \d+$"):
        await Rig(tmp_path).listen()


async def test_tcp_without_certificates_is_refused() -> None:
    listener = PeerListener(PeerAddress(host="127.0.0.1"), None, talk.Me("relay", "b", 0), Recorder)
    with pytest.raises(CannotListen, match="links over TCP need peer certificates"):
        await listener.open()
