"""What leaves a broker in doubt: behind a checked commit, in the order in which it was made; refusals at once."""

from hypothesis import given
from hypothesis import strategies as st
from posthouse.broker import Port
from posthouse.exchange import Effects, Outcomes
from posthouse.server.gate import Gate
from posthouse.wire.messages import Error, Result


def port() -> Port:
    return Port(lambda: None)


def said(number: int) -> Effects:
    """One effect of session 1, told apart by its number."""
    return [(1, [Outcomes("stored", [number], [str(number)])])]


def numbers(effects: Effects) -> list[int]:
    return [one.refs[0] for _, some in effects for one in some if isinstance(one, Outcomes)]


def test_nothing_leaves_before_a_commit_that_began_after_it_is_confirmed() -> None:
    gate, one = Gate(), port()
    gate.begun()
    gate.hold(one, said(1))
    assert (bool(gate), gate.wants_check) == (True, True)
    # The commit that had begun says nothing of it.
    assert gate.passed() == []
    assert gate.take(one) == []
    gate.begun()
    assert (bool(gate), gate.wants_check) == (True, False)
    assert gate.take(one) == []
    assert gate.passed() == [one]
    assert gate.take(one) == said(1)
    assert gate.take(one) == []
    assert (bool(gate), gate.wants_check) == (False, False)


def test_a_commit_that_failed_covers_nothing_and_keeps_the_order() -> None:
    gate, one = Gate(), port()
    gate.hold(one, said(1))
    gate.begun()
    gate.hold(one, said(2))
    gate.failed()
    assert gate.wants_check
    assert gate.passed() == []
    gate.begun()
    gate.hold(one, said(3))
    assert gate.passed() == [one]
    assert numbers(gate.take(one)) == [1, 2]
    assert gate.wants_check


def test_a_refusal_waits_for_nothing() -> None:
    gate, one = Gate(), port()
    refusal = Result(2, "rejected", True, code="quota")
    error = Error("not-owner", "not yours", False, 3)
    promise = Result(4, "duplicate", False, state="stored")
    held = gate.hold(one, [(1, [refusal, promise]), (2, [error]), (3, [promise])])
    assert held == [(1, [refusal]), (2, [error])]
    assert gate.release(one) == [(1, [promise]), (3, [promise])]
    assert gate.hold(one, [(1, [refusal])]) == [(1, [refusal])]
    assert (bool(gate), gate.wants_check) == (False, False)


def test_an_idle_broker_is_checked_when_it_is_asked() -> None:
    gate = Gate()
    assert (bool(gate), gate.wants_check) == (False, False)
    gate.ask()
    assert (bool(gate), gate.wants_check) == (False, True)
    gate.begun()
    assert (bool(gate), gate.wants_check) == (False, False)
    assert gate.passed() == []


def test_ports_do_not_mix() -> None:
    gate, one, two = Gate(), port(), port()
    gate.hold(one, said(1))
    gate.begun()
    gate.hold(two, said(2))
    assert set(gate.ports()) == {one, two}
    assert numbers(gate.release(one)) == [1]
    assert gate.ports() == [two]
    assert gate.passed() == []
    gate.begun()
    assert gate.passed() == [two]
    assert numbers(gate.take(two)) == [2]


@given(st.lists(st.sampled_from(["hold", "begin", "pass", "fail", "take"]), max_size=40))
def test_whatever_happens_nothing_is_lost_early_or_out_of_order(steps: list[str]) -> None:
    gate, one = Gate(), port()
    made = begun = passed = 0
    committing = False
    left: list[int] = []
    for step in steps:
        if step == "hold":
            made += 1
            gate.hold(one, said(made))
        elif step == "begin" and not committing:
            gate.begun()
            committing, begun = True, made
        elif step == "pass" and committing:
            gate.passed()
            committing, passed = False, begun
        elif step == "fail" and committing:
            gate.failed()
            committing = False
        elif step == "take":
            left += numbers(gate.take(one))
            assert left == list(range(1, passed + 1))
    left += numbers(gate.release(one))
    assert left == list(range(1, made + 1))
