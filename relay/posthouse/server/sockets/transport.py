"""A stream socket served by the selector: as much of an `asyncio.Transport` as a connection of the relay needs.

It differs from asyncio's own in four ways: the protocol's buffer is asked for once; writing is paused at the first
byte that the socket does not take; reading cannot be paused (acks and pings must get through); the peer's end always
closes it, whatever `eof_received` answers.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from posthouse.server.sockets.selector import READ, WRITE

if TYPE_CHECKING:
    from posthouse.server.sockets.loop import ServingLoop

_NOT_WRITE: Final = ~WRITE


class SocketTransport(asyncio.Transport):
    """One accepted connection."""

    __slots__ = (
        "_buffer",
        "_closing",
        "_eof_written",
        "_fd",
        "_loop",
        "_lost",
        "_peer",
        "_protocol",
        "_socket",
        "_unsent",
    )

    def __init__(
        self, loop: ServingLoop, sock: socket.socket, peer: Any, protocol: asyncio.BufferedProtocol
    ) -> None:
        """Begins to read at once. `sock` does not block; `protocol` always gives the same buffer."""
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._protocol = protocol
        self._buffer = protocol.get_buffer(-1)
        self._unsent: bytearray | None = None
        self._closing = False
        self._lost = False  # `connection_lost` is under way: nothing is written any more
        self._eof_written = False
        loop.selector.serve(self._fd, self, READ)
        try:
            protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.failed(error)

    # --- what the selector calls

    def ready(self, events: int) -> None:
        """The socket has something to read, has room, or is broken."""
        if events & _NOT_WRITE and not self._closing:
            try:
                count = self._socket.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._lose(error)
                return
            else:
                if count:
                    self._protocol.buffer_updated(count)
                else:
                    self._protocol.eof_received()
                    self.close()
        if self._unsent is not None:
            self._flush(self._unsent)

    def failed(self, error: BaseException) -> None:
        """The protocol has raised: the connection ends."""
        context = {"message": "a connection failed", "exception": error}
        self._loop.call_exception_handler(context)
        self._lose(error if isinstance(error, Exception) else None)

    # --- what the protocol calls

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send; what the socket does not take waits."""
        if self._eof_written:
            raise RuntimeError("nothing can be written behind the end")
        if self._lost:
            return
        unsent = self._unsent
        if unsent is not None:
            unsent += data
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent != len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self._loop.selector.change(self._fd, WRITE if self._closing else READ | WRITE)
            try:
                self._protocol.pause_writing()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                # The caller may be writing to others too.
                self.failed(error)

    def close(self) -> None:
        """Read no more, send what waits, then end."""
        if self._closing:
            return
        self._closing = True
        if self._unsent is None:
            self._lose(None)
        else:
            self._loop.selector.change(self._fd, WRITE)

    def abort(self) -> None:
        """End without sending what waits."""
        self._lose(None)

    def is_closing(self) -> bool:
        """Whether the connection is ending."""
        return self._closing

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Send what waits, then the end; reading goes on."""
        if not self._eof_written and not self._closing:
            self._eof_written = True
            if self._unsent is None:
                self._socket.shutdown(socket.SHUT_WR)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the socket."""
        return 0 if self._unsent is None else len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to set: writing is paused while any byte waits."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername` and `socket`."""
        if name == "peername":
            return self._peer
        return self._socket if name == "socket" else default

    # ---

    def _flush(self, unsent: bytearray) -> None:
        try:
            del unsent[: self._socket.send(unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if unsent:
            return
        self._unsent = None
        if not self._closing:
            self._loop.selector.change(self._fd, READ)
        end_waits = self._eof_written  # what `resume_writing` ends, `write_eof` has sent
        self._protocol.resume_writing()
        if self.get_write_buffer_size():
            return  # the protocol had more to say
        if self._closing:
            self._lose(None)
        elif end_waits:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._unsent = None
            self._loop.selector.leave(self._fd)
            # Later, because the protocol may be the caller.
            self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()
            del self._protocol  # it may know this: a cycle would stay until the collector runs
