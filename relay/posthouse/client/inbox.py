"""The reader's side of a client: what has arrived, what the caller holds, what to acknowledge. Sans-I/O.

Invariants: an id is waiting, held by the caller, answered, or unknown, and only one of these. The caller gets
an id once in this process, unless it answered ``busy``. Answers of an earlier connection are worth nothing on
the next (the relay counts only what it has sent there), so they are given again when the message comes again.
The window bounds what waits and is held; what was answered is remembered up to ``max_remembered`` ids.

Source: docs/protocol.md 2.2 (ack, nack) and 2.4 (at least once).
"""

from __future__ import annotations

from collections import OrderedDict

from posthouse.wire.messages import Ack, Message, Nack, NackCode

_IDS_PER_ITEM = 1000


class Inbox:
    """Messages from the relay on their way to the caller, and the caller's answers on their way back."""

    def __init__(self, max_remembered: int) -> None:
        self._max_remembered = max_remembered
        self._waiting: OrderedDict[str, Message] = OrderedDict()
        self._held: set[str] = set()
        self._answered: OrderedDict[str, NackCode | None] = OrderedDict()
        self._answers: dict[tuple[NackCode | None, int | None], list[str]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def arrived(self, message: Message) -> bool:
        """Whether it is new to the caller. What was answered before is answered again."""
        id = message.id
        if id in self._answered:
            self._answers.setdefault((self._answered[id], None), []).append(id)
            return False
        if id in self._held or id in self._waiting:
            return False
        self._waiting[id] = message
        return True

    def take(self) -> Message | None:
        """The next message for the caller, who then holds it."""
        if not self._waiting:
            return None
        id, message = self._waiting.popitem(last=False)
        self._held.add(id)
        return message

    def answer(self, id: str, code: NackCode | None = None, retry_after_ms: int | None = None) -> None:
        """Acknowledge (``code`` None) or refuse what the caller holds; does nothing for anything else."""
        if id not in self._held:
            return
        self._held.remove(id)
        if code != "busy":
            self._answered[id] = code
            if len(self._answered) > self._max_remembered:
                self._answered.popitem(last=False)
        self._answers.setdefault((code, retry_after_ms), []).append(id)

    def take_answers(self) -> list[Ack | Nack]:
        """The answers to send now."""
        if not self._answers:
            return []
        answers, self._answers = self._answers, {}
        items: list[Ack | Nack] = []
        for (code, retry_after_ms), ids in answers.items():
            for start in range(0, len(ids), _IDS_PER_ITEM):
                part = ids[start : start + _IDS_PER_ITEM]
                items.append(Ack(part) if code is None else Nack(part, code, retry_after_ms))
        return items

    def has_answers(self) -> bool:
        """Whether ``take_answers`` would give something."""
        return bool(self._answers)

    def disconnected(self) -> None:
        """Drop what the caller has not taken: it comes again, unless another reader processes it first."""
        self._waiting.clear()
        self._answers.clear()
