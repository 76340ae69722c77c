"""The control socket: commands of this machine's operator, over a Unix socket that only the relay's user may open.

A request is one JSON object on a line, and so is its answer; then the connection ends. Whoever starts the relay says
which commands there are.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from posthouse.errors import PosthouseError
from posthouse.server import unix_sockets

MAX_LINE_BYTES: Final = 64 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 60.0
LAST_ANSWERS_S: Final = 1.0
"""How long ``end`` waits for commands that are being done."""
MAX_CALLERS: Final = 16
_log = structlog.get_logger()

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Gives the fields of a good answer; raises CommandRefused for a bad one."""


class ControlSocketError(PosthouseError):
    """The control socket cannot be made or reached; the text says why."""


class CommandRefused(PosthouseError):
    """A command cannot be done; the text says why."""


class ControlSocket:
    """The relay's end."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self.path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._changing = asyncio.Lock()
        """Opening takes a while: a close that is asked for meanwhile comes after it."""
        self._conversations: set[asyncio.Task[None]] = set()

    async def open(self, *, in_place: bool = False) -> None:
        """Make the socket, in place of one that a dead process left. Raises ControlSocketError.

        ``in_place``: also of one that a process listens on. For the active member, whose socket it is by now.
        """
        async with self._changing:
            try:
                listener = unix_sockets.listen(self.path, MAX_CALLERS, in_place=in_place)
            except OSError as error:
                raise ControlSocketError(
                    f"cannot make the control socket {self.path}: {_reason(error)}"
                ) from None
            self._inode = os.lstat(self.path).st_ino
            self._server = await asyncio.start_unix_server(self._begin, sock=listener, limit=MAX_LINE_BYTES)

    async def close(self) -> None:
        """Take no more commands and remove the socket, if it is still this one. What was asked is still answered."""
        async with self._changing:
            if self._server is None:
                return
            self._server.close()
            self._server = None
            try:
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            except OSError:
                pass

    async def end(self) -> None:
        """Close, and answer what was asked; what is not done soon is told that it may still be done."""
        await self.close()
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=LAST_ANSWERS_S)
            for conversation in late:
                conversation.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._serve(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._conversations) > MAX_CALLERS:
                answer: dict[str, Any] = {"ok": False, "error": "too many callers at a time"}
            else:
                answer = await self._answer(reader)
            writer.write(msgspec.json.encode(answer) + b"\n")
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # the caller has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            return {"ok": False, "error": f"a request is one line of at most {MAX_LINE_BYTES} bytes"}
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return {"ok": False, "error": "a request is a JSON object"}
        name = request.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            return {"ok": False, "error": f"unknown command; there are: {', '.join(self._commands)}"}
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return {"ok": True, **await command(request)}
        except PosthouseError as error:
            return {"ok": False, "error": str(error)}
        except asyncio.CancelledError:
            return {"ok": False, "error": "the relay ends; what was asked may still be done"}
        except TimeoutError:
            return {"ok": False, "error": f"no answer within {COMMAND_TIMEOUT_S:g} s; it may still be done"}
        except Exception:
            _log.exception("control command failed", command=name)
            return {"ok": False, "error": "internal error"}


def ask(path: Path, request: dict[str, Any], timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
    """The caller's end: what a running relay answers to one command. Raises ControlSocketError."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            unix_sockets.join(connection, str(path))
            try:
                connection.sendall(msgspec.json.encode(request) + b"\n")
            except BrokenPipeError:
                pass  # refused unheard: the answer says why
            line = b""
            while not line.endswith(b"\n"):
                piece = connection.recv(MAX_LINE_BYTES)
                if not piece:
                    raise ControlSocketError(f"{path}: the relay ended the conversation")
                line += piece
        return msgspec.json.decode(line, type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ControlSocketError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
