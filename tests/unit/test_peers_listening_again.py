"""A Unix socket for links that somebody has removed, as those do who clean /tmp: it comes back, and links go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import peer_rig
import pytest
from peer_rig import Rig, mutual_tls, stranger_listening, until
from posthouse.link.frames import Report
from posthouse.server import unix_sockets
from structlog.testing import capture_logs

LOOPS = peer_rig.LOOPS


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "run")
    yield rig
    await rig.close()


def path_of(rig: Rig) -> Path:
    return Path(str(rig.address.path))


@pytest.mark.parametrize("what", ["the socket", "its folder"])
async def test_a_socket_that_was_removed_comes_back_and_links_go_on(rig: Rig, what: str) -> None:
    listener = await rig.listen()
    _, dialing, listening = await rig.link()
    if what == "the socket":
        path_of(rig).unlink()
    else:
        shutil.rmtree(rig.folder)
    with capture_logs() as logs:
        listener.look()
        await until(path_of(rig).exists)
        await until(lambda: logs)
    assert [one["event"] for one in logs] == ["the socket for members was gone: listening anew"]
    found = os.lstat(path_of(rig))
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(rig.folder).st_mode) == 0o700
    other, heard = rig.dialer("c")
    other.follow(str(rig.address))
    await until(lambda: heard.link)
    assert dialing.link is not None and not dialing.whys and not listening.whys
    dialing.link.send(Report("standby", True))
    await until(lambda: listening.frames)
    listener.close()
    assert not path_of(rig).exists()


async def test_a_socket_that_is_there_is_left_alone(rig: Rig) -> None:
    listener = await rig.listen()
    before = unix_sockets.identity(path_of(rig))
    with capture_logs() as logs:
        for _ in range(3):
            listener.look()
            await rig.link()
    assert unix_sockets.identity(path_of(rig)) == before
    assert not [one for one in logs if "anew" in one["event"]]


async def test_what_lies_in_its_place_is_said_once_and_it_comes_back_when_that_is_gone(rig: Rig) -> None:
    listener = await rig.listen()
    path_of(rig).unlink()
    path_of(rig).write_text("data")
    with capture_logs() as logs:
        listener.look()
        await until(lambda: logs)
        for _ in range(3):
            listener.look()
            await asyncio.sleep(0.01)
        assert [(one["event"], one["reason"]) for one in logs] == [
            ("members cannot reach this one", "there is something else")
        ]
    assert path_of(rig).read_text() == "data"
    path_of(rig).unlink()
    listener.look()
    await until(path_of(rig).exists)
    await rig.link()


async def test_where_another_process_listens_it_stays_away(rig: Rig) -> None:
    listener = await rig.listen()
    with stranger_listening(path_of(rig)) as sock:
        with capture_logs() as logs:
            listener.look()
            await until(lambda: logs)
        assert [one["reason"] for one in logs] == ["another process listens there"]
        assert sock.fileno() >= 0
        listener.close()
        assert path_of(rig).exists()


async def test_a_listener_that_closes_meanwhile_stays_closed(rig: Rig) -> None:
    listener = await rig.listen()
    listener.close()
    listener.look()
    await asyncio.sleep(0.02)
    assert not path_of(rig).exists()
    listener = await rig.listen()
    path_of(rig).unlink()
    listener.look()
    listener.close()
    await asyncio.sleep(0.02)
    assert not path_of(rig).exists()


async def test_a_port_has_no_socket_that_could_be_removed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, mutual_tls(tmp_path))
    listener = await rig.listen()
    listener.look()
    await rig.link()
    assert len(listener.links()) == 1
    await rig.close()
