"""What goes wrong in a run: drawn from the run's seed, and over at a time that is known."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import Random

from sim_member import SimMember
from sim_world import World


class Kind(Enum):
    """What a run is about."""

    CALM = "calm"
    """Single requests and answers are lost, wall clocks jump, watches break: nothing that costs the lease."""
    OUTAGE = "outage"
    """The lease is away for everybody, or everybody sleeps, one time apart from the next; the store fences."""
    CHAOS = "chaos"
    """Everything."""


FIRST_FAULT_S = 8.0
LAST_FAULT_S = 20.0
LONGEST_S = 8.0
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


def _some(world: World, random: Random) -> SimMember:
    """The one at work more often than another."""
    at_work = [member for member in world.members if member.alive and member.broker.serves]
    return random.choice(at_work if at_work and random.random() < 0.6 else world.members)


def crash(world: World, random: Random, lasts: float) -> None:
    """kill -9; sometimes another member proves it."""
    member = _some(world, random)
    record = member.crash()
    if record is not None and random.random() < 0.5:
        for other in world.members:
            world.after(
                0.002 + 0.01 * random.random(), other.receiver(lambda m: m.hear_of_death(record.version))
            )
    world.after(lasts, member.start)


def pause(world: World, random: Random, lasts: float) -> None:
    """SIGSTOP and SIGCONT."""
    member = _some(world, random)
    member.pause()
    world.after(lasts, member.resume)


def suspend(world: World, random: Random, lasts: float) -> None:
    """All members sleep at once, as those of one machine do, and wake one after the other."""
    for member in world.members:
        if not member.paused:
            member.pause()
            world.after(lasts + 0.05 * random.random(), member.resume)


def cut_lease(world: World, random: Random, lasts: float) -> None:
    """A member is cut off from the lease, wholly or one way."""
    member = _some(world, random)
    way = random.choice(("requests", "answers", "both"))
    world.say(f"{member.name} and the lease are cut: {way}")
    member.deaf_requests = member.deaf_requests or way != "answers"
    member.deaf_answers = member.deaf_answers or way != "requests"
    if random.random() < 0.5:
        world.after(0.01, member.receiver(lambda m: m.unwatch()))

    def heal() -> None:
        world.say(f"{member.name} and the lease are joined")
        member.deaf_requests = member.deaf_answers = False

    world.after(lasts, heal)


def cut_store(world: World, random: Random, lasts: float) -> None:
    """A member is cut off from the store."""
    member = _some(world, random)
    world.say(f"{member.name} and the store are cut")
    member.cut_from_store = True

    def heal() -> None:
        member.cut_from_store = False

    world.after(lasts, heal)


def outage(world: World, random: Random, lasts: float) -> None:
    """The lease is away for everybody."""
    world.say("the lease is away")
    world.down = True

    def end() -> None:
        world.say("the lease is back")
        world.down = False

    world.after(lasts, end)


def losses(world: World, random: Random, lasts: float) -> None:
    """Much is lost on the way to the lease."""
    world.say("much is lost")
    world.loss = random.choice((0.1, 0.3, 0.6))

    def end() -> None:
        world.loss = 0.0

    world.after(lasts, end)


def slowness(world: World, random: Random, lasts: float) -> None:
    """Much is late."""
    world.say("much is late")
    world.slow = random.choice((0.1, 0.3, 0.6))

    def end() -> None:
        world.slow = 0.0

    world.after(lasts, end)


def deletion(world: World, random: Random, lasts: float) -> None:
    """Somebody deletes the lease."""
    world.say("the lease is deleted")
    world.deleted = True
    world.table.delete()


def hand_over(world: World, random: Random, lasts: float) -> None:
    """Somebody asks for another active member."""
    member = _some(world, random)
    if member.alive and not member.paused:
        other = random.choice(world.members)
        successor = random.choice(("", f"{other.name}.1"))
        world.say(f"{member.name} is to hand over to {successor or 'any'}")
        member.hand_over(successor)


def one_lost(world: World, random: Random, lasts: float) -> None:
    """One request, or the answer to one."""
    member = _some(world, random)
    world.say(f"{member.name} loses one request or answer")
    if random.random() < 0.4:
        member.lose_request = True
    else:
        member.lose_answer = True


def wall_jump(world: World, random: Random, lasts: float) -> None:
    """Somebody sets a wall clock."""
    member = _some(world, random)
    jump = random.choice((-1.0, 1.0)) * random.choice((2.0, 60.0, 3600.0))
    world.say(f"{member.name}'s wall clock jumps by {jump} s")
    member.wall_jump_s += jump


def watch_lost(world: World, random: Random, lasts: float) -> None:
    """A watch breaks."""
    world.after(0.0, _some(world, random).receiver(lambda m: m.unwatch()))


def blindness(world: World, random: Random, lasts: float) -> None:
    """The watch of a member breaks whenever it is begun, to the end of the run: a fault that is never over."""
    member = _some(world, random)
    world.say(f"{member.name} has no watch from now on")
    member.blind = True

    def again() -> None:
        member.receiver(lambda m: m.unwatch())()
        world.after(0.5, again)

    again()


Fault = Callable[[World, Random, float], None]


def apart(fault: Fault) -> Fault:
    """The same, but only when the last such fault was over for longer than a duration.

    An outage that comes and goes can catch every request of the holder and none of a follower's.
    """

    def begin(world: World, random: Random, lasts: float) -> None:
        if world.now >= world.spared_until:
            world.spared_until = world.now + lasts + world.timing.duration_s * 1.2
            fault(world, random, lasts)

    return begin


CALM: tuple[Fault, ...] = (one_lost, wall_jump, watch_lost, blindness)
OUTAGE: tuple[Fault, ...] = (apart(outage), apart(outage), apart(suspend), wall_jump)
CHAOS: tuple[Fault, ...] = (
    crash,
    pause,
    pause,
    suspend,
    cut_lease,
    cut_lease,
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
