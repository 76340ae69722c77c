"""The end of the control socket: it comes after its beginning, and who has asked something hears how it went."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from posthouse.server import control
from posthouse.server.control import ControlSocket, ask


async def test_closing_while_it_is_being_opened_leaves_nobody_listening(tmp_path: Path) -> None:
    socket = ControlSocket(tmp_path / "control.sock", {})
    async with asyncio.timeout(10):
        await asyncio.gather(socket.open(), socket.close())
    assert not socket.path.exists()
    await socket.open()
    await asyncio.gather(socket.close(), socket.open(in_place=True), socket.close(), socket.open())
    assert (await asyncio.to_thread(ask, socket.path, {"command": "x"}))["ok"] is False
    await socket.close()
    assert not socket.path.exists()


async def test_a_command_that_is_being_done_is_answered_at_the_end(tmp_path: Path) -> None:
    asked, done = asyncio.Event(), asyncio.Event()

    async def slow(_request: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        await done.wait()
        return {"well": "done"}

    socket = ControlSocket(tmp_path / "control.sock", {"slow": slow})
    await socket.open()
    answer = asyncio.create_task(asyncio.to_thread(ask, socket.path, {"command": "slow"}))
    await asked.wait()
    ending = asyncio.create_task(socket.end())
    while socket.path.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert not ending.done()
    done.set()
    await ending
    assert await answer == {"ok": True, "well": "done"}


async def test_a_command_that_takes_too_long_for_that_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LAST_ANSWERS_S", 0.05)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    asked = asyncio.Event()

    async def hang(_request: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        await asyncio.Event().wait()
        return {}

    socket = ControlSocket(tmp_path / "control.sock", {"hang": hang})
    await socket.open()
    answer = asyncio.create_task(asyncio.to_thread(ask, socket.path, {"command": "hang"}))
    await asked.wait()
    async with asyncio.timeout(10):
        await socket.end()
        assert await answer == {"ok": False, "error": "the relay ends; what was asked may still be done"}
    assert failures == []
