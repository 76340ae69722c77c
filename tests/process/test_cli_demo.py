"""`posthouse demo`: it proves what it says, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from posthouse.cli.demo_books import Books, ProofFailed, Pulse
from posthouse.client import Receipt

LIMIT_S = 120
SHORT = """
import posthouse.cli.demo as demo, posthouse.cli.demo_changes as changes
from posthouse.cli.demo_changes import Kind, Whose
demo._LIVE_MESSAGES = demo._OFFLINE_MESSAGES = 50
"""
ONE_OF_EACH = """
changes.PLAN = (
    (Kind.KILL, Whose.NOBODY),
    (Kind.HAND_OVER, Whose.SENDER),
    (Kind.KILL_OWN, Whose.SENDER),
    (Kind.STOP_OWN, Whose.READER),
)
"""
FOR_EVER = "changes.PLAN = ((Kind.KILL, Whose.NOBODY),) * 1000"
RUN = "from posthouse.cli import main; main(['demo'])"


@contextmanager
def demo(folder: Path, *patches: str, terminal: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """The demonstration in a process of its own, shortened, with its temporary files in `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join([SHORT, *patches, RUN])],
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def members_of(folder: Path) -> list[int]:
    """Processes of `posthouse serve` with their store in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(entry.name)
            command = (entry / "cmdline").read_bytes()
            if b"serve" in command.split(b"\0") and os.fsencode(folder) in command:
                found.append(pid)
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert members_of(folder) == []
    assert list(folder.iterdir()) == []


def test_every_promise_is_kept_through_changes_of_the_active(tmp_path: Path) -> None:
    with demo(tmp_path, ONE_OF_EACH) as process:
        output, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in output
    counts = {name: int(count) for name, count in re.findall(r"^  ([a-z ,]+?) +(\d+)$", output, re.MULTILINE)}
    assert counts["promised by the relay"] == counts["received by the reader"] > 500
    assert (counts["lost"], counts["damaged or twice"]) == (0, 0)

    told = re.findall(r"(hand-over|kill -9|SIGTERM).* (\w) → (\w), epoch (\d+): (.*)", output)
    assert f"through {len(told)} changes of the active" in output
    assert [int(epoch) for _, _, _, epoch, _ in told] == sorted({int(epoch) for _, _, _, epoch, _ in told})
    for what, was, now, _, seen in told:
        assert was != now
        if what == "hand-over":
            assert "its socket stays open" in seen
    kills = [seen for what, _, _, _, seen in told if what == "kill -9"]
    assert "its socket stays open" in kills[0]
    assert re.match(r"the sender notices \d+ ms and goes from (\w) to (?!\1)\w", kills[1])
    assert any(what == "SIGTERM" and "the reader notices" in seen for what, _, _, _, seen in told)
    for kind in ("hand-over on request", "kill -9, client of another member", "kill -9, its own client"):
        assert re.search(rf"^  {kind} +\d+ +\d+ ms +\d+ ms$", output, re.MULTILINE), kind
    assert_nothing_is_left(tmp_path)


def test_on_a_terminal_there_is_a_live_picture(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown = b""
    with demo(tmp_path, "changes.PLAN = ((Kind.KILL, Whose.NOBODY),)", terminal=theirs) as process:
        os.close(theirs)
        with suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(ours, 65536):
                shown += piece
        _, errors = process.communicate(timeout=LIMIT_S)
    os.close(ours)
    assert (process.returncode, errors) == (0, "")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"│ [ABC] +│ \d+ +│ active +│ 1 ", text)
    assert re.search(r"│ [ABC] +│ \d+ +│ standby +│ 2 ", text)
    assert re.search(r"│ [ABC] +│ (- +│ dead|\d+ +│ starting) ", text)
    assert re.search(r"promised \d+ +received \d+ +changes 1", text)
    assert text.rstrip().splitlines()[-1].startswith("Every promise was kept")
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor stays hidden"
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("number", "code", "when"),
    [
        (signal.SIGINT, 130, "Three members are up"),
        (signal.SIGTERM, 143, "Sender at"),
        (signal.SIGHUP, 143, "Now a stream"),
        (signal.SIGINT, 130, "kill -9"),
    ],
)
def test_interrupted_it_ends_its_members_and_removes_its_files(
    tmp_path: Path, number: signal.Signals, code: int, when: str
) -> None:
    with demo(tmp_path, FOR_EVER) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if when in line)
        assert len(members_of(tmp_path)) >= 2, line
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    assert errors.strip() == ""
    assert_nothing_is_left(tmp_path)


def test_a_member_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    broken = "import posthouse.cli.demo_member as m; m.sys.executable = '/bin/false'"
    with demo(tmp_path, broken) as process:
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert errors == "posthouse: member A ended with exit code 1: it said nothing\n"
    assert_nothing_is_left(tmp_path)


def test_a_connection_that_ends_in_a_hand_over_fails_the_proof(tmp_path: Path) -> None:
    clumsy = """
changes.PLAN = ((Kind.HAND_OVER, Whose.SENDER),)
from posthouse.cli.demo_members import DemoMembers
well = DemoMembers.hand_over
async def hand_over(self, to):
    await well(self, to)
    await self.until(lambda: self.active is to, "it is there")
    to.kill()
DemoMembers.hand_over = hand_over
"""
    with demo(tmp_path, clumsy) as process:
        output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert re.fullmatch(
        r"posthouse: hand-over on request: the sender, at \w, lost its connection: .*\n", errors
    )
    assert "Every promise was kept" not in output
    assert_nothing_is_left(tmp_path)


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


def test_a_pulse_knows_its_longest_pause_and_counts_one_under_way_from_its_beginning() -> None:
    pulse = Pulse()
    for now in (1.0, 4.0, 4.5):
        pulse.beat(now)
    assert pulse.longest_s == 3.0
    pulse.begin()
    assert (pulse.longest_s, pulse.beats) == (0.0, 0)
    pulse.beat(5.5)
    pulse.beat(5.6)
    assert (pulse.longest_s, pulse.beats) == (1.0, 2)
