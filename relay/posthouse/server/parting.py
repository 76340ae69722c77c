"""What may still leave a broker that may not act, where no store fences: answers about what has been, no messages."""

from __future__ import annotations

from msgspec import structs

from posthouse.exchange import Command, Commands, Effects, Resume
from posthouse.wire.messages import Message


def answers_only(effects: Effects) -> Effects:
    """The effects without messages."""
    return [(number, [one for one in some if not isinstance(one, Message)]) for number, some in effects]


def without_messages(effects: Effects, commands: Commands) -> Commands:
    """The commands for the next broker, as if the messages among these effects had never been sent."""
    unsent: dict[int, dict[str, int]] = {}
    for number, some in effects:
        sizes = {one.id: len(one.ciphertext) for one in some if isinstance(one, Message)}
        unsent.setdefault(number, {}).update(sizes)
    return [(number, [_without(one, unsent.get(number)) for one in some]) for number, some in commands]


def _without(command: Command, unsent: dict[str, int] | None) -> Command:
    if not unsent or not isinstance(command, Resume):
        return command
    opened = structs.replace(command.opened, credit=command.opened.credit + sum(unsent.values()))
    return structs.replace(command, held=[one for one in command.held if one.id not in unsent], opened=opened)
