"""What a member can be, and what leads from one role to another: one table, and nothing outside of it."""

from __future__ import annotations

from enum import Enum
from typing import Final

from posthouse.errors import PosthouseError


class Role(Enum):
    """What a member is. Every one that has started is a front; the role is its broker's."""

    STARTING = "starting"
    """Not ready: it does not stand for election."""
    STANDBY = "standby"
    """Stands for election."""
    PROMOTING = "promoting"
    """Has claimed the lease; raises the epoch and reads the store."""
    ACTIVE = "active"
    """Its broker serves."""
    IN_DOUBT = "in doubt"
    """Its broker serves, but the lease cannot be renewed: every answer waits for a commit that the store checked."""
    DRAINING = "draining"
    """Its broker takes no commands; it ends, then the lease is given up."""
    STOPPED = "stopped"
    """For good."""


class Event(Enum):
    """What changes a role."""

    READY = "ready"
    """The start is done."""
    CLAIMED = "claimed"
    """The lease is ours."""
    PROMOTED = "promoted"
    """The epoch is raised, the state is read, and the lease is still ours."""
    PROMOTION_FAILED = "promotion failed"
    """The store could not be promoted, or the lease was not ours any more when it was."""
    DOUBT = "doubt"
    """The lease was not renewed by its deadline; the store fences."""
    RENEWED = "renewed"
    """It was renewed after all."""
    LOST = "lost"
    """Another member holds the lease; or the deadline has passed and the store does not fence."""
    FENCED = "fenced"
    """The store refused a commit: another member was promoted."""
    HAND_OVER = "hand-over"
    """Asked to let another member be active, or to stop."""
    DRAINED = "drained"
    """The broker has ended and the lease is given up; the member goes on."""
    STOP = "stop"
    """The same, or there was no broker; the member ends."""


class RoleError(PosthouseError):
    """An event that cannot happen in this role: a fault of the program."""

    def __init__(self, role: Role, event: Event) -> None:
        super().__init__(role, event)
        self.role = role
        self.event = event

    def __str__(self) -> str:
        return f"a member that is {self.role.value} cannot take the event {self.event.value!r}"


TABLE: Final[dict[tuple[Role, Event], Role]] = {
    (Role.STARTING, Event.READY): Role.STANDBY,
    (Role.STARTING, Event.STOP): Role.STOPPED,
    (Role.STANDBY, Event.CLAIMED): Role.PROMOTING,
    (Role.STANDBY, Event.STOP): Role.STOPPED,
    # A promotion has no answers out: doubt does not end it, but it succeeds only with the lease in hand.
    (Role.PROMOTING, Event.DOUBT): Role.PROMOTING,
    (Role.PROMOTING, Event.RENEWED): Role.PROMOTING,
    (Role.PROMOTING, Event.PROMOTED): Role.ACTIVE,
    (Role.PROMOTING, Event.PROMOTION_FAILED): Role.DRAINING,
    (Role.PROMOTING, Event.LOST): Role.DRAINING,
    (Role.PROMOTING, Event.HAND_OVER): Role.DRAINING,
    (Role.ACTIVE, Event.DOUBT): Role.IN_DOUBT,
    (Role.ACTIVE, Event.LOST): Role.DRAINING,
    (Role.ACTIVE, Event.FENCED): Role.DRAINING,
    (Role.ACTIVE, Event.HAND_OVER): Role.DRAINING,
    (Role.IN_DOUBT, Event.RENEWED): Role.ACTIVE,
    (Role.IN_DOUBT, Event.LOST): Role.DRAINING,
    (Role.IN_DOUBT, Event.FENCED): Role.DRAINING,
    (Role.IN_DOUBT, Event.HAND_OVER): Role.DRAINING,
    # What happens to the lease while a broker ends does not keep it from ending.
    (Role.DRAINING, Event.DOUBT): Role.DRAINING,
    (Role.DRAINING, Event.RENEWED): Role.DRAINING,
    (Role.DRAINING, Event.LOST): Role.DRAINING,
    (Role.DRAINING, Event.FENCED): Role.DRAINING,
    (Role.DRAINING, Event.HAND_OVER): Role.DRAINING,
    (Role.DRAINING, Event.DRAINED): Role.STANDBY,
    (Role.DRAINING, Event.STOP): Role.STOPPED,
}
"""All there is."""

AT_WORK: Final = frozenset({Role.ACTIVE, Role.IN_DOUBT, Role.DRAINING})
"""Roles in which effects of a broker may leave, if the lease allows it."""


def next_role(role: Role, event: Event) -> Role:
    """The role after an event. Raises RoleError for what the table does not have."""
    try:
        return TABLE[role, event]
    except KeyError:
        raise RoleError(role, event) from None
