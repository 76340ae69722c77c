"""Running the programs of this system, and waiting for what they bring about. Errors are one line."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

POLL_S = 0.05
TAIL_LINES = 12


class ClusterError(RuntimeError):
    """The test cluster cannot do what it was asked to. The text says in a line what is wrong."""


def run(
    command: Sequence[str | Path],
    *,
    text: str | None = None,
    timeout_s: float = 120.0,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """What the command prints. Raises ClusterError with the last lines of its errors if it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd=cwd,
            env=environment,
        )
    except FileNotFoundError:
        raise ClusterError(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(words)}: no end after {timeout_s:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-TAIL_LINES:]
        raise ClusterError(f"{' '.join(words)}: exit {done.returncode}: {' / '.join(said)}")
    return done.stdout


def succeeds(command: Sequence[str | Path], timeout_s: float = 20.0) -> bool:
    """Whether the command exists and succeeds."""
    try:
        run(command, timeout_s=timeout_s)
    except ClusterError:
        return False
    return True


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return f"{log}: no log"
    return "\n".join([f"the end of {log}:", *text.splitlines()[-lines:]])


def until(condition: Callable[[], bool], what: str, deadline_s: float, log: Path | None = None) -> None:
    """Wait until the condition holds. Raises ClusterError, with the end of the log that may say why."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            reason = f"{what}: not within {deadline_s:g} s"
            raise ClusterError(f"{reason}; {tail(log)}" if log else reason)
        time.sleep(POLL_S)


def missing(programs: dict[str, str]) -> list[str]:
    """The packages of those programs that are not installed, of a table of program to package."""
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})
