"""While no member is active: a hello waits, publishes wait and are rejected after a while, beyond a bound at once."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from members import PATIENT, Members, members, settled_texts, survives, until
from relay_process import RelayProcess
from wire_client import is_result, texts
from wire_fixtures import Dial
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]
KIB = 1024
LIMITS = f"limits.hold_s = 1.5\nlimits.max_held_bytes = {64 * KIB}\n"
LONG = PATIENT | {"POSTHOUSE_LEASE_DURATION_S": "60"}
"""Nobody claims what a stopped member holds, for as long as a test lasts."""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Members]:
    with members(tmp_path, 2, "--lease", "store", config=LIMITS, timing=LONG) as made:
        yield made


def left_alone(group: Members) -> tuple[RelayProcess, RelayProcess]:
    """The active member, which is stopped, and the other one, which has noticed."""
    active, (other,) = group.split()
    active.signal(signal.SIGSTOP)
    until(lambda: other.status()["active"] is None, "the other one sees nobody")
    return active, other


def test_what_waits_too_long_is_refused(group: Members, dial: Dial, key: KeyOf) -> None:
    _, (other,) = group.split()
    sender, chatty, reader = dial(other), dial(other), dial(other, key("reader"))
    reader.subscribe()
    before = sender.publish(b"seen by the active", recipient=key("reader").address)
    assert texts([reader.message()]) == [b"seen by the active"]
    assert sender.result(before)["status"] == "stored"
    active, _ = left_alone(group)
    waiting = dial.unopened(other)
    waiting.send(waiting.hello_item())
    refs = [sender.publish(b"%d" % n, recipient=key("reader").address) for n in range(3)]
    assert sender.settle() == []
    for ref in refs:
        is_result(sender.result(ref), "rejected", code="not-active")
    # From now on at once.
    is_result(sender.post(b"late", recipient=key("reader").address), "rejected", code="not-active")
    reader.ack(message_id(b"seen by the active"))
    # Requests that cannot be rejected are bounded by the end of whoever makes them without end.
    for _ in range(10):
        chatty.send_array([{"type": "status", "ref": n} for n in range(100)])
    closed = chatty.wait_closed()
    assert (closed.code, closed.reason) == (1013, "not-active")
    # Whoever chooses among members sends nobody here any more.
    assert other.status()["role"] == "standby"
    assert other.get("/readyz") == (503, b"no active instance is reached\n")
    closed = waiting.wait_closed(15)
    assert (closed.code, closed.reason) == (1013, "not-active")
    active.signal(signal.SIGCONT)
    until(lambda: other.status()["active"] is not None, "the active one is back")
    assert other.get("/readyz")[0] == 200
    is_result(sender.post(b"after", recipient=key("reader").address), "stored")
    assert texts([reader.message()]) == [b"after"]
    reader.ack(message_id(b"after"))
    # The ack that was kept has reached the broker, and nothing that was rejected.
    until(lambda: active.status()["store"]["messages"] == 0, "both are acknowledged")
    assert settled_texts(reader) == []


def test_what_waits_within_its_bounds_is_answered_by_the_next_active(
    group: Members, dial: Dial, key: KeyOf
) -> None:
    _, (other,) = group.split()
    sender, reader = dial(other), dial(other, key("reader"))
    reader.subscribe()
    active, _ = left_alone(group)
    early = dial.unopened(other)
    # A hello waits too, and what is said behind it.
    early.send(early.hello_item())
    text = b"%02d" + bytes(20 * KIB)
    behind = early.publish(text % 10, recipient=key("away").address)
    refs = []
    for number in range(5):
        refs.append(sender.publish(text % number, recipient=key("reader").address))
        if number < 3:
            assert sender.settle() == []
    # More than can be held is rejected at once.
    for ref in refs[3:]:
        is_result(sender.result(ref), "rejected", code="not-active")
    active.signal(signal.SIGCONT)
    assert [sender.result(ref)["status"] for ref in refs[:3]] == ["stored"] * 3
    assert [item["ciphertext"][:2] for item in (reader.message() for _ in range(3))] == [b"00", b"01", b"02"]
    assert early.wait_for("welcome")["epoch"] == active.status()["epoch"]
    is_result(early.result(behind), "stored")
    is_result(sender.post(text % 4, recipient=key("reader").address), "stored")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_last_one_that_is_left_becomes_active(tmp_path: Path, dial: Dial, how: signal.Signals) -> None:
    with members(tmp_path, 3) as group:
        for left in (2, 1):
            active, others = group.split()
            client = dial(others[0])
            epoch = active.status()["epoch"]
            active.signal(how)
            active.wait()
            assert group.wait_active(above=epoch)[1] == epoch + 1
            assert len(group.running) == left
            assert survives(client)
            client.close()
