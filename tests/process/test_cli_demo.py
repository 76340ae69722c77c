"""`posthouse demo`: it proves what it says, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from posthouse.cli.demo_story import Books, ProofFailed
from posthouse.client import Receipt

SHORT = (
    "import posthouse.cli.demo as demo; "
    "demo._STREAM_S = {seconds}; demo._LIVE_MESSAGES = demo._OFFLINE_MESSAGES = 50"
)
RUN = "from posthouse.cli import main; main(['demo'])"


@contextmanager
def demo(folder: Path, *patches: str, seconds: float = 1.0) -> Iterator[subprocess.Popen[str]]:
    """The demonstration in a process of its own, shortened, with its temporary files in `folder`."""
    code = "; ".join([SHORT.format(seconds=seconds), *patches, RUN])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def relay_pid(line: str) -> int:
    found = re.search(r"process (\d+)", line)
    assert found is not None, line
    return int(found[1])


def test_every_promise_is_kept_through_a_kill_and_the_output_is_plain(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        output, errors = process.communicate(timeout=90)
    assert (process.returncode, errors) == (0, "")
    assert "kill -9" in output and "\x1b" not in output
    counts = {name: int(count) for name, count in re.findall(r"^  ([a-z ]+?) +(\d+)$", output, re.MULTILINE)}
    assert counts["promised by the relay"] == counts["received by the reader"] > 1000
    assert (counts["lost"], counts["damaged or twice"]) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(relay_pid(output), 0)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_interrupted_it_ends_its_relay_and_removes_its_files(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with demo(tmp_path, seconds=60) as process:
        assert process.stdout is not None
        pid = relay_pid(process.stdout.readline())
        os.kill(pid, 0)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.strip() == ""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_relay_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    broken = "import posthouse.cli.demo_relay as r; r.sys.executable = '/bin/false'"
    with demo(tmp_path, broken) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "posthouse: the relay ended with exit code 1: it said nothing\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lost_or_damaged_message_fails_the_proof() -> None:
    books = Books()
    books.promised["a"] = Receipt("a", "stored", "stored", 1.0)
    with pytest.raises(ProofFailed, match="1 promised messages were lost"):
        books.check()
    books.received["a"] = 1.0
    books.check()
    books.damaged = 1
    with pytest.raises(ProofFailed):
        books.check()
