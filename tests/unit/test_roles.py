"""The table of roles: what it allows, that everything else is an error, and that no member gets stuck."""

import pytest
from posthouse.single_active.roles import TABLE, Event, Role, RoleError, next_role


@pytest.mark.parametrize(
    ("events", "role"),
    [
        ([Event.READY], Role.STANDBY),
        ([Event.READY, Event.CLAIMED], Role.PROMOTING),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED], Role.ACTIVE),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED, Event.DOUBT], Role.IN_DOUBT),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED, Event.DOUBT, Event.RENEWED], Role.ACTIVE),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED, Event.DOUBT, Event.FENCED], Role.DRAINING),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED, Event.FENCED, Event.DRAINED], Role.STANDBY),
        ([Event.READY, Event.CLAIMED, Event.DOUBT, Event.PROMOTION_FAILED, Event.DRAINED], Role.STANDBY),
        ([Event.READY, Event.CLAIMED, Event.PROMOTED, Event.HAND_OVER, Event.STOP], Role.STOPPED),
        ([Event.STOP], Role.STOPPED),
    ],
)
def test_a_life_leads_where_it_should(events: list[Event], role: Role) -> None:
    at = Role.STARTING
    for event in events:
        at = next_role(at, event)
    assert at is role


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_is_an_error_that_says_so(role: Role, event: Event) -> None:
    if (role, event) in TABLE:
        assert next_role(role, event) is TABLE[role, event]
        return
    with pytest.raises(RoleError) as error:
        next_role(role, event)
    assert role.value in str(error.value)
    assert repr(event.value) in str(error.value)


def test_only_a_promotion_with_the_lease_in_hand_makes_active() -> None:
    assert [step for step, after in TABLE.items() if after is Role.ACTIVE] == [
        (Role.PROMOTING, Event.PROMOTED),
        (Role.IN_DOUBT, Event.RENEWED),
    ]


def test_a_broker_always_ends_in_draining_before_its_member_is_anything_else() -> None:
    for (role, _), after in TABLE.items():
        if role in (Role.ACTIVE, Role.IN_DOUBT) and after in (Role.STANDBY, Role.STOPPED):
            pytest.fail(f"{role} → {after}")


@pytest.mark.parametrize("role", set(Role) - {Role.STOPPED})
def test_from_every_role_a_member_can_become_active_and_can_stop(role: Role) -> None:
    reached = {role}
    while more := {after for (at, _), after in TABLE.items() if at in reached} - reached:
        reached |= more
    assert {Role.ACTIVE, Role.STOPPED} <= reached


def test_stopped_is_the_end() -> None:
    assert not [step for step in TABLE if step[0] is Role.STOPPED]
