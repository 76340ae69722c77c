"""One run of the simulation: everything in it follows from its seed."""

from __future__ import annotations

from random import Random

from posthouse.single_active.roles import Role
from posthouse.single_active.timing import PATIENT, QUICK
from sim_client import SimClient
from sim_member import SimMember
from sim_plan import FIRST_FAULT_S, OVER_S, Kind, plan
from sim_promises import Violation
from sim_store import SimStore
from sim_world import World

SETTLES_S = 12.0
"""After the last fault: what is late arrives, a whole duration by a slow clock, requests that time out, a promotion."""

ANSWERED_S = 4.0
"""After that: a dial, what is resumed, the slowest ack."""


class RunFailed(AssertionError):
    """A run that broke an invariant, with its story."""

    def __init__(self, seed: int, why: str, history: list[str]) -> None:
        super().__init__(seed, why)
        self.seed = seed
        self.why = why
        self.history = history

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.why}\n" + "\n".join(self.history)


def run(
    seed: int, member_type: type[SimMember] = SimMember, store_type: type[SimStore] = SimStore
) -> dict[str, int]:
    """Run one seed; counts of what happened. Raises RunFailed."""
    random = Random(seed)
    kind = random.choice((Kind.CALM, Kind.OUTAGE, Kind.CHAOS, Kind.CHAOS, Kind.CHAOS, Kind.CHAOS))
    fenced = kind is Kind.OUTAGE or random.random() < 0.5
    timing = PATIENT if random.random() < 0.1 else QUICK
    world = World(random, store_type, timing, fenced=fenced)
    members = [member_type(world, name) for name in "abcd"[: random.randint(1, 4)]]
    for member in members:
        world.after(random.random(), member.start)
    for number in range(random.choice((0, 0, 2, 3))):
        client = SimClient(world, number)
        world.after(1.0 + random.random(), client.connect)
        world.after(random.uniform(1.0, 4.0) * world.scale, client.publisher(OVER_S * world.scale))
    try:
        world.run(FIRST_FAULT_S * world.scale - 0.001)
        _expect_one_active(world, "before any fault")
        plan(world, kind)
        world.run(OVER_S * world.scale)
        world.say("no more faults")
        world.run((OVER_S + SETTLES_S) * world.scale)
        _expect_one_active(world, f"{SETTLES_S * world.scale} s after the last fault")
        world.run((OVER_S + SETTLES_S + ANSWERED_S) * world.scale)
        _expect_answers(world)
        activations = sum(member.activations for member in members)
        if kind is not Kind.CHAOS and activations != 1:
            raise Violation(f"{activations} promotions without a reason ({kind.value})")
        if kind is Kind.CALM and any(member.doubts for member in members):
            raise Violation("in doubt without a reason")
    except Exception as error:  # whatever it is: the story tells how it came to that
        why = str(error) if isinstance(error, Violation) else repr(error)
        story = f"{kind.value}, {len(members)} members, {'fenced' if fenced else 'unfenced'}: {why}"
        raise RunFailed(seed, story, world.history) from error
    return {
        "promotions": activations,
        "doubts": sum(member.doubts for member in members),
        "promised": len(world.promises.promised),
        "stored": sum(state == "stored" for state in world.promises.promised.values()),
        "refused": len(world.promises.refused),
        "repeated": world.promises.repeated,
        "resumed": sum(member.resumed for member in members),
    }


def _expect_answers(world: World) -> None:
    """Every publish has its answer, nothing promised is lost, all of it has come to its reader."""
    for client in world.clients:
        if client.waits:
            raise Violation(f"{client.name} has no answer to {client.waits} publishes")
    world.promises.check(world.store.messages())
    world.promises.check_received()


def _expect_one_active(world: World, when: str) -> None:
    active = [m.name for m in world.members if m.alive and m.member.role is Role.ACTIVE]
    if len(active) != 1:
        raise Violation(f"{len(active)} active members {when}")
