"""What a client asks besides publishing: subscriptions that last, and questions with one answer. Sans-I/O.

Invariants: a subscription is made anew on every connection until it is ended or refused; a question is asked
again on the next connection until it is answered or forgotten; what an ended subscription shares with another
one stays subscribed.

Source: docs/protocol.md 2.2 (subscribe, unsubscribe, status, ping).
"""

from __future__ import annotations

from dataclasses import dataclass

from posthouse.client.errors import Refused
from posthouse.identity import Address, canonical_address, is_address
from posthouse.wire.messages import Ping, StatusRequest, Subscribe, Unsubscribe

Question = StatusRequest | Ping | Unsubscribe


@dataclass(slots=True)
class SubscriptionState:
    """One subscription as the client keeps it."""

    item: Subscribe
    caught_up: bool = False
    """On the present connection all of its backlog has been sent."""
    failure: Refused | None = None
    """The relay does not allow it."""


class Requests:
    """Subscriptions and open questions of one client."""

    def __init__(self, own_address: Address | None) -> None:
        self._own_address = own_address
        self.subscriptions: dict[int, SubscriptionState] = {}
        self._questions: dict[int, Question] = {}

    def subscribe(self, item: Subscribe) -> None:
        """Keep a new subscription."""
        self.subscriptions[item.ref] = SubscriptionState(item)

    def end(self, subscription_ref: int, ref: int) -> Unsubscribe | None:
        """End a subscription: what to tell the relay under the new number ``ref``, if anything."""
        state = self.subscriptions.pop(subscription_ref, None)
        if state is None or state.failure is not None:
            return None
        addresses, buckets = self._names(state.item)
        for other in self.subscriptions.values():
            other_addresses, other_buckets = self._names(other.item)
            addresses -= other_addresses
            buckets -= other_buckets
        if not addresses and not buckets:
            return None
        return Unsubscribe(ref, sorted(addresses) or None, sorted(buckets) or None)

    def ask(self, question: Question) -> None:
        """Keep a question until it is answered."""
        ref = question.t if isinstance(question, Ping) else question.ref
        assert isinstance(ref, int)
        self._questions[ref] = question

    def answered(self, ref: int) -> bool:
        """Whether an open question had this number; it is closed now."""
        return self._questions.pop(ref, None) is not None

    def to_repeat(self) -> list[Subscribe | Question]:
        """What a new connection begins with."""
        wanted = [state.item for state in self.subscriptions.values() if state.failure is None]
        return [*wanted, *self._questions.values()]

    def caught_up(self) -> bool:
        """Whether all backlog of all subscriptions has been sent."""
        return all(state.caught_up for state in self.subscriptions.values())

    def disconnected(self) -> None:
        """The connection is gone, and what it had subscribed with it."""
        for state in self.subscriptions.values():
            state.caught_up = False
        questions = self._questions.items()
        self._questions = {ref: item for ref, item in questions if not isinstance(item, Unsubscribe)}

    def _names(self, item: Subscribe) -> tuple[set[str], set[str]]:
        addresses = item.addresses or []
        if item.addresses is None and item.buckets is None and self._own_address is not None:
            addresses = [self._own_address]
        canonical = {str(canonical_address(address)) for address in addresses if is_address(address)}
        return canonical, set(item.buckets or [])
