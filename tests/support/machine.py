"""What this machine must have for a test, and what happens when it has not.

A test that needs root, a tmpfs or a program says so with `need`. Where it is missing the test is skipped, and the
end of the run has one line for each such reason. POSTHOUSE_REQUIRE (`root,tmpfs,postgresql`) names what must be
there: then the test fails instead, so that a machine which is meant to run everything cannot quietly run less.
"""

import contextlib
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

asked: set[str] = set()
"""What the tests of this run have asked for."""


def required() -> frozenset[str]:
    """What POSTHOUSE_REQUIRE names."""
    return frozenset(
        name.strip() for name in os.environ.get("POSTHOUSE_REQUIRE", "").split(",") if name.strip()
    )


def need(what: str, available: bool, reason: str) -> None:
    """Go on if `what` is available; else skip the test (or the module) with `reason`, or fail if it is required.

    `what` is one word, as in POSTHOUSE_REQUIRE; `reason` says in a phrase what is missing and what stays untested.
    """
    asked.add(what)
    if available:
        return
    if what in required():
        pytest.fail(f"{what} is required here: {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def is_root() -> bool:
    """Whether this process may do everything."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


@cache
def can_mount_tmpfs() -> bool:
    """Whether a tmpfs can be mounted here: root alone is not enough in most containers."""
    try:
        with tempfile.TemporaryDirectory() as folder, mounted_tmpfs(Path(folder), 64 * 1024):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def mounted_tmpfs(folder: Path, size_bytes: int, options: str = "") -> Iterator[Path]:
    """A small file system of its own at `folder`: to fill a disk without harm. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "umount2"):
        raise OSError("this system has no tmpfs")
    data = f"size={size_bytes}{',' + options if options else ''}"
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        yield folder
    finally:
        # Lazily: a test that failed may have left a file open, and the mount must not outlive it.
        libc.umount2(os.fsencode(folder), 2)


def runs(*command: str) -> bool:
    """Whether this command exists and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
