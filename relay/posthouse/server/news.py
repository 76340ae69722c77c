"""What changes of the active an operator hears of: one line each, in the log and wherever else they are told."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from posthouse.link.frames import Handover
from posthouse.single_active.member import RoleChanged
from posthouse.single_active.roles import Event, Role

Kind = Literal["Promoted", "HandingOver", "Fenced", "LeaseLost", "InDoubt", "LeaseRenewed", "PromotionFailed"]


SERVING: Final = (Role.ACTIVE, Role.IN_DOUBT)


class News(Struct, frozen=True, gc=False):
    """One change."""

    kind: Kind
    text: str
    warning: bool = False


def of_promotion(epoch: int, handover: Handover | None) -> News:
    """This member is active. ``handover``: the last that is known, perhaps an earlier one."""
    if handover is None or handover.epoch != epoch:
        return News("Promoted", f"active with epoch {epoch}")
    gap = f", after {handover.gap_ms} ms without an active member" if handover.gap_ms is not None else ""
    return News("Promoted", f"active with epoch {epoch} after {handover.before}: {handover.reason}{gap}")


def of_role(changed: RoleChanged, successor: str) -> News | None:
    """A change of the role other than a promotion; None if it is nothing that anybody need hear of."""
    match changed.event:
        case Event.HAND_OVER if changed.before in SERVING:
            return News(
                "HandingOver", f"handing over to {successor or 'whoever claims first'}: {changed.reason}"
            )
        case Event.FENCED:
            return News("Fenced", changed.reason, warning=True)
        case Event.LOST if changed.before in SERVING:
            return News("LeaseLost", changed.reason, warning=True)
        case Event.DOUBT if changed.before is Role.ACTIVE:
            return News(
                "InDoubt",
                f"the lease was {changed.reason}: every answer waits for a commit that the store has checked",
                warning=True,
            )
        case Event.RENEWED if changed.before is Role.IN_DOUBT:
            return News("LeaseRenewed", "the lease is sure again")
        case Event.PROMOTION_FAILED:
            return News("PromotionFailed", changed.reason, warning=True)
    return None
