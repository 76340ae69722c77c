"""Which faults a run has, and when: drawn from the run's seed, and over at a time that is known."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import Random

from sim_faults import (
    LONGEST_S,
    Fault,
    blindness,
    crash,
    cut_lease,
    cut_store,
    deletion,
    hand_over,
    losses,
    one_lost,
    outage,
    pause,
    replace_active,
    slowness,
    suspend,
    wall_jump,
    watch_lost,
)
from sim_link_faults import cut_links, half_open_links, reset_links, slow_links
from sim_world import World


class Kind(Enum):
    """What a run is about."""

    CALM = "calm"
    """Single requests and answers are lost, wall clocks jump, watches and links break: nothing that costs the lease."""
    OUTAGE = "outage"
    """The lease is away for everybody, or everybody sleeps, one time apart from the next; the store fences."""
    CHAOS = "chaos"
    """Everything."""


FIRST_FAULT_S = 8.0
LAST_FAULT_S = 20.0
OVER_S = LAST_FAULT_S + LONGEST_S
"""All in seconds of a run with the quick profile."""


def plan(world: World, kind: Kind) -> None:
    """Lay out the faults of a run."""
    random = world.random
    faults = {Kind.CALM: CALM, Kind.OUTAGE: OUTAGE, Kind.CHAOS: CHAOS}[kind]
    for _ in range(random.randint(1, 7)):
        fault = random.choice(faults)
        begin = random.uniform(FIRST_FAULT_S, LAST_FAULT_S) * world.scale
        lasts = random.choice((0.3, 1.5, 4.0, LONGEST_S)) * random.random() * world.scale
        world.after(begin - world.now, _bound(fault, world, random, lasts))


def _bound(fault: Fault, world: World, random: Random, lasts: float) -> Callable[[], None]:
    return lambda: fault(world, random, lasts)


def apart(fault: Fault) -> Fault:
    """The same, but only when the last such fault was over for longer than a duration.

    An outage that comes and goes can catch every request of the holder and none of a follower's.
    """

    def begin(world: World, random: Random, lasts: float) -> None:
        if world.now >= world.spared_until:
            world.spared_until = world.now + lasts + world.timing.duration_s * 1.2
            fault(world, random, lasts)

    return begin


LINKS: tuple[Fault, ...] = (cut_links, reset_links, half_open_links, slow_links)
CALM: tuple[Fault, ...] = (one_lost, wall_jump, watch_lost, blindness, *LINKS)
OUTAGE: tuple[Fault, ...] = (apart(outage), apart(outage), apart(suspend), wall_jump, cut_links)
CHAOS: tuple[Fault, ...] = (
    *LINKS,
    crash,
    pause,
    pause,
    suspend,
    cut_lease,
    cut_lease,
    replace_active,
    cut_store,
    outage,
    losses,
    slowness,
    deletion,
    hand_over,
    wall_jump,
    watch_lost,
    blindness,
)
