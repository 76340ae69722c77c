"""The file itself: where it may lie, which files stand beside it, and what a directory needs to be durable."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from posthouse.store.interface import StoreUnusable

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "9p",
        "afs",
        "acfs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
    }
)
"""Types, as /proc/self/mountinfo names them, on which several kernels may see one file: WAL needs one."""
NETWORK_FUSE: Final = frozenset(
    {
        "ceph",
        "cephfs",
        "curlftpfs",
        "davfs2",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "moosefs",
        "mfs",
        "nfs",
        "rclone",
        "s3fs",
        "seaweedfs",
        "smbnetfs",
        "sshfs",
    }
)
"""What stands behind ``fuse.`` for file systems of that kind."""
MOUNTS: Final = Path("/proc/self/mountinfo")


def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo."""
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def _mounts(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """Device number (``major:minor``), mount point and type of every mount."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        yield fields[2], _unescape(fields[4]), right.split(" ")[0]


def file_system_of(directory: Path, mountinfo: str) -> str | None:
    """The type of the file system that a directory is on; None if the table does not tell.

    By the longest mount point above it; the last one wins, as it covers those before.
    """
    real = str(directory.resolve())
    best, found = -1, None
    for _, point, kind in _mounts(mountinfo):
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:
            best, found = len(point), kind
    return found


def is_network(kind: str) -> bool:
    """Whether a type of file system is shared between machines."""
    return kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind[5:] in NETWORK_FUSE)


def check_place(path: Path) -> None:
    """Raise StoreUnusable if no store can lie there."""
    directory = path.parent
    if not directory.is_dir():
        raise StoreUnusable(f"cannot use {path}: there is no directory {directory}")
    if path.exists() and not path.is_file():
        raise StoreUnusable(f"cannot use {path}: it is not a file")
    try:
        mountinfo = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return  # not Linux: nothing that could be asked without a compiler
    kind = file_system_of(directory, mountinfo)
    if kind is not None and is_network(kind):
        raise StoreUnusable(
            f"cannot use {path}: it is on a network file system ({kind}); use a disk of this machine, "
            "or postgresql:// for several machines"
        )


def make(path: Path) -> None:
    """Make an empty file that only its owner may use, if there is none; SQLite gives its log the same mode.

    Raises OSError.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def make_alike(path: Path, model: Path) -> None:
    """Give a file the owner (as far as we may) and the mode of another. Raises OSError."""
    status = model.stat()
    if os.geteuid() == 0:
        os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable: new files and renames. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path, suffix: str) -> Path:
    """A file that belongs to the store: ``-wal``, ``-shm``, ``-open``, ``-lease``."""
    return path.with_name(path.name + suffix)
