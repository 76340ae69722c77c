"""Runs `posthouse` as a person would: a process with its own standard streams."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "posthouse"]


def posthouse(*arguments: str, input: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], input=input, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@contextmanager
def started_posthouse(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command at work, with pipes for its streams; at the end it is killed if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The line with which a command failed: exit code 1, nothing else on standard error."""
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("posthouse: ")
    return lines[0].removeprefix("posthouse: ")
