"""The broker's effects as messages of dialect v2 (docs/protocol.md 2.3)."""

from __future__ import annotations

from typing import Final

from posthouse.exchange import Effect, Outcomes, Superseded
from posthouse.wire.messages import Goaway, Message, Result, Results, ServerMessage

MAX_REFS: Final = 8192
"""Refs in one ``results`` item: at most 140 KB as JSON."""
SUPERSEDED_RECONNECT_MS: Final = (1000, 30_000)


def translate(
    effects: list[Effect], compact_results: bool, outgoing: list[ServerMessage]
) -> tuple[int, bool]:
    """Append to ``outgoing`` what the client is told. The effects are not changed.

    Returns the bytes of ciphertext among it, and whether the session was superseded: then it has to end,
    and the effects behind that one were left out.
    """
    ciphertext_bytes = 0
    results: dict[str, Results] = {}
    for effect in effects:
        if isinstance(effect, Message):
            ciphertext_bytes += len(effect.ciphertext)
            outgoing.append(effect)
        elif isinstance(effect, Outcomes):
            if compact_results:
                _gather(effect, results, outgoing)
            else:
                status = effect.status
                pairs = zip(effect.refs, effect.ids, strict=True)
                outgoing.extend([Result(ref, status, False, identity) for ref, identity in pairs])
        elif isinstance(effect, Superseded):
            outgoing.append(Goaway("superseded", SUPERSEDED_RECONNECT_MS, []))
            return ciphertext_bytes, True
        else:
            outgoing.append(effect)
    return ciphertext_bytes, False


def _gather(outcomes: Outcomes, results: dict[str, Results], outgoing: list[ServerMessage]) -> None:
    """Put all refs of one status in one item, where the first of them stood: a receipt still comes after it."""
    status, refs = outcomes.status, outcomes.refs
    item = results.get(status)
    if item is not None and len(item.refs) + len(refs) <= MAX_REFS:
        item.refs += refs
        return
    for start in range(0, len(refs), MAX_REFS) if len(refs) > MAX_REFS else (0,):
        results[status] = item = Results(status, refs[start : start + MAX_REFS])
        outgoing.append(item)
