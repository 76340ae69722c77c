"""What goes wrong with members, the lease and the store. Each fault says when it is over."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sim_member import SimMember
from sim_world import World

Fault = Callable[[World, Random, float], None]
"""Begins now and lasts for so many seconds, if it is one that lasts."""
LONGEST_S = 8.0
"""No fault lasts longer, in seconds of a run with the quick profile."""


def some(world: World, random: Random) -> SimMember:
    """The one at work more often than another."""
    at_work = [member for member in world.members if member.alive and member.broker.serves]
    return random.choice(at_work if at_work and random.random() < 0.6 else world.members)


def crash(world: World, random: Random, lasts: float) -> None:
    """kill -9; sometimes another member proves it."""
    member = some(world, random)
    record = member.crash()
    if record is not None and random.random() < 0.5:
        for other in world.members:
            world.after(
                0.002 + 0.01 * random.random(), other.receiver(lambda m: m.hear_of_death(record.version))
            )
    world.after(lasts, member.start)


def pause(world: World, random: Random, lasts: float) -> None:
    """SIGSTOP and SIGCONT."""
    member = some(world, random)
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
    member = some(world, random)
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


def replace_active(world: World, random: Random, lasts: float) -> None:
    """The one at work is cut off from the lease for so long that another one takes it, and works on meanwhile."""
    at_work = [member for member in world.members if member.alive and member.broker.serves]
    if at_work and not at_work[0].paused:
        member = at_work[0]
        world.say(f"{member.name} and the lease are cut for long")
        member.deaf_requests = member.deaf_answers = True

        def heal() -> None:
            world.say(f"{member.name} and the lease are joined")
            member.deaf_requests = member.deaf_answers = False

        world.after(random.uniform(6.0, LONGEST_S) * world.scale, heal)


def cut_store(world: World, random: Random, lasts: float) -> None:
    """A member is cut off from the store."""
    member = some(world, random)
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
    member = some(world, random)
    if member.alive and not member.paused:
        other = random.choice(world.members)
        successor = random.choice(("", f"{other.name}.1"))
        world.say(f"{member.name} is to hand over to {successor or 'any'}")
        member.hand_over(successor)


def one_lost(world: World, random: Random, lasts: float) -> None:
    """One request, or the answer to one."""
    member = some(world, random)
    world.say(f"{member.name} loses one request or answer")
    if random.random() < 0.4:
        member.lose_request = True
    else:
        member.lose_answer = True


def wall_jump(world: World, random: Random, lasts: float) -> None:
    """Somebody sets a wall clock."""
    member = some(world, random)
    jump = random.choice((-1.0, 1.0)) * random.choice((2.0, 60.0, 3600.0))
    world.say(f"{member.name}'s wall clock jumps by {jump} s")
    member.wall_jump_s += jump


def watch_lost(world: World, random: Random, lasts: float) -> None:
    """A watch breaks."""
    world.after(0.0, some(world, random).receiver(lambda m: m.unwatch()))


def blindness(world: World, random: Random, lasts: float) -> None:
    """The watch of a member breaks whenever it is begun, to the end of the run: a fault that is never over."""
    member = some(world, random)
    world.say(f"{member.name} has no watch from now on")
    member.blind = True

    def again() -> None:
        member.receiver(lambda m: m.unwatch())()
        world.after(0.5, again)

    again()
