"""From the configuration to the lease by which members agree, its times, and where this member is reached by others."""

from __future__ import annotations

import glob
import os
import socket
import stat
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from posthouse.config import Config
from posthouse.config.forms import split_host_port
from posthouse.errors import PosthouseError
from posthouse.server import unix_sockets
from posthouse.single_active.leases.file import FileLease
from posthouse.single_active.leases.interface import Lease
from posthouse.single_active.leases.none import NoneLease
from posthouse.single_active.leases.store import StoreLease
from posthouse.single_active.timing import Timing
from posthouse.store.interface import Store

if TYPE_CHECKING:
    from posthouse.server.pods import Pod

DEFAULT_PORT: Final = 8081


class NoPlaceForSockets(PosthouseError):
    """The runtime folder for Unix sockets is not ours alone, or cannot be made."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(folder, reason)
        self.folder = folder
        self.reason = reason

    def __str__(self) -> str:
        return f"no place for the sockets of members: {self.folder}: {self.reason}; set peer.listen"


def open_lease(config: Config, store: Store, pod: Pod | None) -> Lease:
    """The lease that the configuration asks for. Nothing is asked of it yet. ``pod``: where that is a cluster's."""
    kind = config.lease_kind
    if kind == "kubernetes":
        assert pod is not None, "joined before"
        return pod.lease
    if kind == "none":
        return NoneLease()
    if kind == "store":
        return StoreLease(store.open_lease_rows)
    path = config.sqlite_path
    assert path is not None, "checked with the configuration"
    control = config.control_socket_path
    return FileLease(path, str(control.absolute()) if control else None)


def relay_id(config: Config) -> str:
    """The id of a relay whose members have only their Lease in common, and no store that knows it."""
    return sha256(f"{config.pod.namespace}/{config.lease.name}".encode()).hexdigest()[:16]


def timing_of(config: Config) -> Timing:
    """The times of the election; the configuration has been checked for such as are not safe."""
    lease = config.lease
    return Timing(
        duration_s=lease.duration_s,
        deadline_s=lease.deadline_s,
        renew_interval_s=lease.renew_s,
        request_timeout_s=lease.request_timeout_s,
    )


def peer_listen(config: Config, member: str) -> str | None:
    """Where this member is to listen for links; None if it is alone. Raises NoPlaceForSockets."""
    if config.lease_kind == "none":
        return None
    if config.peer.listen:
        return config.peer.listen
    if config.peer.tls_cert:
        everywhere = "[::]" if ":" in config.pod.ip else "0.0.0.0"  # a pod of IPv6 may have no other
        return f"{everywhere}:{DEFAULT_PORT}"
    path = config.sqlite_path
    if path is not None:
        beside = path.resolve()
        folder = beside.parent
        if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH:  # as volumes of containers often are
            folder = _private_folder(folder / f"{beside.name}-members")
        remove_dead(folder, f"{beside.name}-peer-")
        return f"unix:{folder / f'{beside.name}-peer-{member}.sock'}"
    folder = _runtime_folder()
    remove_dead(folder, "peer-")
    return f"unix:{folder / f'peer-{member}.sock'}"


def peer_address(config: Config, listening: str) -> str:
    """What other members are told, of where this one listens."""
    if config.peer.address:
        return config.peer.address
    if listening.startswith("unix:"):
        return listening
    host, port = split_host_port(listening)
    if host not in ("0.0.0.0", "::"):
        return listening
    ip = config.pod.ip
    return f"{f'[{ip}]' if ':' in ip else ip or socket.getfqdn()}:{port}"


def remove_dead(folder: Path, prefix: str) -> None:
    """Remove the sockets of members that have ended without doing so."""
    for path in folder.glob(f"{glob.escape(prefix)}*.sock"):
        with suppress(OSError):
            if unix_sockets.is_dead(path):
                path.unlink()


def _runtime_folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return _private_folder(
        Path(base) / "posthouse" if base else Path(tempfile.gettempdir()) / f"posthouse-{os.geteuid()}"
    )


def _private_folder(folder: Path) -> Path:
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise NoPlaceForSockets(folder, (error.strerror or str(error)).lower()) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NoPlaceForSockets(folder, "not a folder of this user alone")
    return folder
