"""What an operator hears of a change of role, and what nobody need hear of."""

from __future__ import annotations

import pytest
from posthouse.link.frames import Handover
from posthouse.server import news
from posthouse.server.news import News
from posthouse.single_active.member import RoleChanged
from posthouse.single_active.roles import TABLE, Event, Role

TOLD = {
    (Role.ACTIVE, Event.HAND_OVER): ("HandingOver", False),
    (Role.IN_DOUBT, Event.HAND_OVER): ("HandingOver", False),
    (Role.ACTIVE, Event.FENCED): ("Fenced", True),
    (Role.IN_DOUBT, Event.FENCED): ("Fenced", True),
    (Role.ACTIVE, Event.LOST): ("LeaseLost", True),
    (Role.IN_DOUBT, Event.LOST): ("LeaseLost", True),
    (Role.ACTIVE, Event.DOUBT): ("InDoubt", True),
    (Role.IN_DOUBT, Event.RENEWED): ("LeaseRenewed", False),
    (Role.PROMOTING, Event.PROMOTION_FAILED): ("PromotionFailed", True),
}


CHANGES = [one for one, after in TABLE.items() if after is not one[0]]


@pytest.mark.parametrize(("before", "event"), CHANGES, ids=lambda one: str(one.value))
def test_each_change_of_role_is_told_or_is_no_news(before: Role, event: Event) -> None:
    changed = RoleChanged(before, TABLE[before, event], event, "because")
    found = news.of_role(changed, "")
    assert (found and (found.kind, found.warning)) == TOLD.get((before, event))
    assert found is None or (found.text and "\n" not in found.text)


def test_a_hand_over_says_to_whom_and_why() -> None:
    changed = RoleChanged(Role.ACTIVE, Role.DRAINING, Event.HAND_OVER, "stopping")
    assert news.of_role(changed, "b.1") == News("HandingOver", "handing over to b.1: stopping")
    assert news.of_role(changed, "") == News("HandingOver", "handing over to whoever claims first: stopping")


def test_a_loss_says_why() -> None:
    reason = "another member holds the lease"
    changed = RoleChanged(Role.IN_DOUBT, Role.DRAINING, Event.LOST, reason)
    assert news.of_role(changed, "") == News("LeaseLost", reason, warning=True)


def test_a_doubt_says_what_it_means() -> None:
    changed = RoleChanged(Role.ACTIVE, Role.IN_DOUBT, Event.DOUBT, "not renewed by the deadline")
    found = news.of_role(changed, "")
    assert found is not None
    assert found.text.startswith("the lease was not renewed by the deadline: every answer waits for a commit")


@pytest.mark.parametrize(
    ("handover", "text"),
    [
        (None, "active with epoch 4"),
        (Handover("crash", "a.1", "b.2", 3, None, 0), "active with epoch 4"),
        (
            Handover("stopping", "a.1", "b.2", 4, 120, 0),
            "active with epoch 4 after a.1: stopping, after 120 ms without an active member",
        ),
        (Handover("not renewed", "a.1", "b.2", 4, None, 0), "active with epoch 4 after a.1: not renewed"),
        (
            Handover("promote", "a.1", "b.2", 4, 0, 0),
            "active with epoch 4 after a.1: promote, after 0 ms without an active member",
        ),
    ],
)
def test_a_promotion_says_after_whom_if_it_was_a_change(handover: Handover | None, text: str) -> None:
    assert news.of_promotion(4, handover) == News("Promoted", text)
