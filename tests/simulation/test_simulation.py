"""A few thousand seeds of the simulation, and proof that it would notice. ``make simulate`` runs more.

A failing seed tells its story; ``SIMULATION_SEED=N`` runs that one alone, and so does ``simulate.py --seed N``.
"""

import os
from collections import Counter

import pytest
from sim_member import SimMember
from sim_mutations import (
    AckForgettingMember,
    AnswerCountingMember,
    BlindStore,
    CountingOnMember,
    EarlyReleasingMember,
    HeldAckingMember,
    HeldForgettingMember,
    NotAskingMember,
    NotReadingMember,
    OldGenerationMember,
    PublishForgettingMember,
    SubscriptionForgettingMember,
    UncheckedStore,
    WallClockMember,
    WatchTrustingMember,
)
from sim_run import RunFailed, run
from sim_store import SimStore

RUNS = 2000
MUTATION_RUNS = 2000


def test_no_seed_breaks_an_invariant() -> None:
    only = os.environ.get("SIMULATION_SEED")
    seeds = [int(only)] if only else range(RUNS)
    happened: Counter[str] = Counter()
    for seed in seeds:
        happened.update(run(seed))
    if not only:
        # The runs were not empty: hand-overs and failovers, doubt, promises of both kinds, sessions that went on.
        assert happened["promotions"] > RUNS * 1.2
        assert happened["doubts"] > RUNS * 0.1
        assert happened["promised"] > RUNS * 10
        assert happened["stored"] > RUNS * 2
        assert happened["resumed"] > RUNS * 0.5


def test_a_run_follows_from_its_seed_alone() -> None:
    assert [run(seed) for seed in range(40)] == [run(seed) for seed in range(40)]


@pytest.mark.parametrize(
    ("member_type", "store_type", "invariant"),
    [
        (AnswerCountingMember, SimStore, "act as holders"),
        (WallClockMember, SimStore, "act as holders"),
        (EarlyReleasingMember, SimStore, "act as holders"),
        (NotReadingMember, SimStore, "without a reason"),
        (CountingOnMember, SimStore, "promotions without a reason (outage)"),
        (WatchTrustingMember, SimStore, "0 active members"),
        (SimMember, UncheckedStore, "a commit of epoch"),
        (SimMember, BlindStore, "was promised and"),
        (PublishForgettingMember, SimStore, "has no answer to"),
        (SubscriptionForgettingMember, SimStore, "was promised and has not come"),
        (HeldForgettingMember, SimStore, "is sent it again"),
        (HeldAckingMember, SimStore, "its reader has not acknowledged it"),
        (OldGenerationMember, SimStore, "that it does not wait for"),
        (NotAskingMember, SimStore, "which may not act"),
    ],
    ids=[
        "deadline-from-answer",
        "wall-clock",
        "release-before-stop",
        "no-read-after-conflict",
        "counting-on",
        "watch-for-lease",
        "no-epoch-check",
        "no-epoch-check-unseen",
        "publishes-forgotten",
        "subscriptions-forgotten",
        "held-forgotten",
        "held-acknowledged",
        "old-generation",
        "may-act-not-asked",
    ],
)
def test_weakened_code_is_caught(
    member_type: type[SimMember], store_type: type[SimStore], invariant: str
) -> None:
    for seed in range(MUTATION_RUNS):
        try:
            run(seed, member_type, store_type)
        except RunFailed as failed:
            if invariant in failed.why:
                return
    pytest.fail(f"{MUTATION_RUNS} seeds did not break the invariant {invariant!r}")


def test_acks_that_are_not_repeated_bring_messages_again_and_lose_none() -> None:
    for seed in range(MUTATION_RUNS):
        again = run(seed, AckForgettingMember)["repeated"]
        if again and again > run(seed)["repeated"]:
            return
    pytest.fail(f"in {MUTATION_RUNS} seeds no message came again")
