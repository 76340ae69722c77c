"""The control socket on its own: its file, its limits, its errors."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from posthouse.errors import PosthouseError
from posthouse.server import control
from posthouse.server.control import ControlSocket, ControlSocketError, ask


class NoWayError(PosthouseError):
    pass


async def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"heard": request}


async def refuse(_request: dict[str, Any]) -> dict[str, Any]:
    raise NoWayError("no way")


async def fail(_request: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("a secret")


async def hang(_request: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(3600)
    return {}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    commands = {"echo": echo, "refuse": refuse, "fail": fail, "hang": hang}
    served = ControlSocket(tmp_path / "control.sock", commands)
    await served.open()
    yield served.path
    await served.close()
    assert not served.path.exists()


async def ask_soon(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    return await asyncio.to_thread(ask, path, request)


async def test_a_command_is_answered_in_one_line(path: Path) -> None:
    request = {"command": "echo", "x": [1, "ü"]}
    assert await ask_soon(path, request) == {"ok": True, "heard": request}


async def test_errors_of_a_command_are_told_and_accidents_are_not(path: Path) -> None:
    assert await ask_soon(path, {"command": "refuse"}) == {"ok": False, "error": "no way"}
    assert await ask_soon(path, {"command": "fail"}) == {"ok": False, "error": "internal error"}


async def test_silence_and_slowness_end_in_an_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    monkeypatch.setattr(control, "COMMAND_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(path)
    assert b'"ok":false' in await reader.readline()
    writer.close()
    answer = await ask_soon(path, {"command": "hang"})
    assert answer["ok"] is False and "no answer within" in answer["error"]


async def test_there_is_an_end_to_callers_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CALLERS", 2)
    idle = [await asyncio.open_unix_connection(path) for _ in range(2)]
    await asyncio.sleep(0)
    answer = await ask_soon(path, {"command": "echo"})
    assert answer == {"ok": False, "error": "too many callers at a time"}
    for _, writer in idle:
        writer.close()


async def test_its_mode_is_set_before_anybody_can_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    rename = os.rename

    def seen(source: str, target: str, **folders: Any) -> None:
        modes.append(stat.S_IMODE(os.lstat(tmp_path / source).st_mode))
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", seen)
    served = ControlSocket(tmp_path / "control.sock", {})
    await served.open()
    assert modes == [0o600]
    assert os.listdir(tmp_path) == ["control.sock"]
    await served.close()


async def test_closing_leaves_the_socket_of_a_successor_alone(tmp_path: Path) -> None:
    first, second = (ControlSocket(tmp_path / "control.sock", {}) for _ in range(2))
    await first.open()
    first.path.unlink()
    await second.open()
    await first.close()
    assert second.path.exists()
    await second.close()


async def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ControlSocketError, match=r"cannot make the control socket .*no such file"):
        await ControlSocket(tmp_path / "none" / "control.sock", {}).open()


def test_asking_where_nobody_answers_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ControlSocketError, match=r"control\.sock: no such file"):
        ask(tmp_path / "control.sock", {})
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with pytest.raises(ControlSocketError, match=r"control\.sock: connection refused"):
        ask(tmp_path / "control.sock", {})


async def test_a_socket_that_a_killed_process_of_the_same_pid_left_unnamed_is_no_hindrance(
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / f".posthouse-{os.getpid()}.sock"))
    served = ControlSocket(tmp_path / "control.sock", {"echo": echo})
    await served.open()
    assert (await ask_soon(served.path, {"command": "echo"}))["ok"]
    await served.close()
