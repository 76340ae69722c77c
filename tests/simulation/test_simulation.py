"""A few thousand seeds of the simulation, and proof that it would notice. ``make simulate`` runs more.

A failing seed tells its story; ``SIMULATION_SEED=N`` runs that one alone, and so does ``simulate.py --seed N``.
"""

import os
from collections import Counter

import pytest
from sim_member import SimMember
from sim_mutations import (
    AnswerCountingMember,
    BlindStore,
    CountingOnMember,
    EarlyReleasingMember,
    NotReadingMember,
    UncheckedStore,
    WallClockMember,
    WatchTrustingMember,
)
from sim_run import RunFailed, run
from sim_store import SimStore

RUNS = 3000
MUTATION_RUNS = 2000


def test_no_seed_breaks_an_invariant() -> None:
    only = os.environ.get("SIMULATION_SEED")
    seeds = [int(only)] if only else range(RUNS)
    happened: Counter[str] = Counter()
    for seed in seeds:
        happened.update(run(seed))
    if not only:
        # The runs were not empty: hand-overs and failovers, doubt, promises.
        assert happened["promotions"] > RUNS * 1.2
        assert happened["doubts"] > RUNS * 0.1
        assert happened["promised"] > RUNS * 10


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
        (SimMember, BlindStore, "was promised and is lost"),
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
