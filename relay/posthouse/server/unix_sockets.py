"""Unix sockets of this machine, for other members and for the operator's commands: for our own user, or root, alone.

The socket has mode 0600, and both ends ask the kernel for the other's user (where it says: Linux). A socket's path must
fit about a hundred bytes; on Linux both ends reach through /proc/self/fd, so any path will do.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
import struct
from pathlib import Path
from typing import Final, Protocol

_PROC_FDS: Final = Path("/proc/self/fd")
_CREDENTIALS: Final = struct.Struct("3i")
"""pid, uid, gid."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""As much as the system allows of it. TCP is left alone: there the kernel finds a better size by itself."""


class HasOptions(Protocol):
    """A socket, or asyncio's view of one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As in the standard library."""


def listen(path: Path, backlog: int, *, in_place: bool = False) -> socket.socket:
    """A listening socket, in place of one that a dead process left. Raises OSError with a reason.

    The folder has to be ours or root's, and not one where everybody can replace files. ``in_place``: also in place of
    one that a process listens on.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    try:
        _check_folder(folder)
        _make_room(path, in_place)
        # Bound under a short name and renamed, so that the name may be long, and so that nobody finds the socket under
        # its own name before its mode is set. The pid would not do: in a container every process has the same.
        working = f".posthouse-{secrets.token_hex(6)}.sock"
        place = _PROC_FDS / str(folder) if _PROC_FDS.exists() else path.parent
        listener.bind(str(place / working))
        try:
            os.chmod(working, 0o600, dir_fd=folder)
            listener.listen(backlog)
            os.rename(working, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(working, dir_fd=folder)
            raise
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def connect(path: str) -> socket.socket:
    """A connected socket, which does not block. Raises OSError; BlockingIOError if its listener is too busy."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        join(connection, path)
    except OSError:
        connection.close()
        raise
    return connection


def join(connection: socket.socket, path: str) -> None:
    """Connect a socket, in its own way of waiting. Raises OSError."""
    if not hasattr(os, "O_PATH") or not _PROC_FDS.exists():
        connection.connect(path)
        return
    found = os.open(path, os.O_PATH)
    try:
        connection.connect(str(_PROC_FDS / str(found)))
    finally:
        os.close(found)


def widen(sock: socket.socket) -> None:
    """Have a Unix socket's buffer take many frames: it does not grow by itself."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def stranger(sock: HasOptions) -> int | None:
    """The user at the other end if it is neither ours nor root; None if it is, or where the kernel does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(found)[1]
    return None if uid in (0, os.geteuid()) else uid


def identity(path: Path) -> tuple[int, int] | None:
    """Which file there is under this name, for as long as somebody has it; None if there is none that can be seen."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_dead(path: Path) -> bool:
    """Whether it is a socket on which no process listens. Raises OSError if that cannot be told."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    try:
        connect(str(path)).close()
    except ConnectionRefusedError:
        return True  # its process is gone
    except BlockingIOError:
        pass  # it is only busy
    return False


def _check_folder(folder: int) -> None:
    found = os.fstat(folder)
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionError(0, f"its folder belongs to user {found.st_uid}")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(0, "everybody can write in its folder")


def _make_room(path: Path, in_place: bool) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "there is something else")
    if not in_place and not is_dead(path):
        raise FileExistsError(0, "another process listens there")
