"""What goes wrong with the links between members."""

from __future__ import annotations

from random import Random

from sim_faults import some
from sim_world import World


def cut_links(world: World, random: Random, lasts: float) -> None:
    """No frame arrives at a member, or from it, or neither, from one other member or from all."""
    member = some(world, random)
    others = [other.name for other in world.members if other is not member]
    if random.random() < 0.5:
        others = others[:1]
    way = random.choice(("to", "from", "both"))
    world.say(f"links of {member.name} with {' '.join(others) or 'nobody'} are cut: {way}")
    if way != "from":
        world.cut_ways.update((other, member.name) for other in others)
    if way != "to":
        world.cut_ways.update((member.name, other) for other in others)
    world.after(lasts, world.join_links)


def reset_links(world: World, random: Random, lasts: float) -> None:
    """The links of a member break, and so does what replaces them after a moment."""
    member = some(world, random)
    for delay_s in (0.0, 0.05 * random.random()):
        world.after(delay_s, lambda: world.reset_links(member.name))


def half_open_links(world: World, random: Random, lasts: float) -> None:
    """What a member sends does not arrive, then its links are half open: the old and the new one overlap."""
    member = random.choice(world.members)
    world.say(f"what {member.name} sends over links is stuck")
    world.cut_ways.update((member.name, other.name) for other in world.members)

    def end() -> None:
        world.say(f"links of {member.name} are half open")
        for link in world.links:
            if link.member == member.name:
                link.half_open(random.random())
        world.join_links()

    world.after(min(lasts, 2.0), end)


def slow_links(world: World, random: Random, lasts: float) -> None:
    """Frames of all links are late, in order."""
    world.say("links are slow")
    world.link_slow = random.choice((0.05, 0.2, 0.6))

    def end() -> None:
        world.link_slow = 0.0

    world.after(lasts, end)
