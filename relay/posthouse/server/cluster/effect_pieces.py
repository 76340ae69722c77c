"""Effects of one flush, cut so that each piece fits a frame of a link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from posthouse.exchange import Effect, Effects, Outcomes
from posthouse.wire.messages import Message

EFFECT_BYTES: Final = 512
"""More than an effect takes in a frame beside its ciphertext and its lists."""
OUTCOME_BYTES: Final = 128
"""More than one publish takes among outcomes."""
PIECE_BYTES: Final = 8 * 2**20
"""About what one piece takes; a single effect that is larger is a piece by itself."""


def in_pieces(effects: Effects) -> Iterator[Effects]:
    """The same effects in the same order; one piece, as it was given, if they are few."""
    if sum(_size(one) for _, some in effects for one in some) <= PIECE_BYTES:
        yield effects
        return
    piece: Effects = []
    size = 0
    for number, some in effects:
        part: list[Effect] = []
        for effect in some:
            more = _size(effect)
            if size and size + more > PIECE_BYTES:
                yield [*piece, (number, part)] if part else piece
                piece, part, size = [], [], 0
            part.append(effect)
            size += more
        if part:
            piece.append((number, part))
    yield piece


def _size(effect: Effect) -> int:
    if type(effect) is Message:
        return EFFECT_BYTES + len(effect.ciphertext)
    if type(effect) is Outcomes:
        return EFFECT_BYTES + OUTCOME_BYTES * len(effect.ids)
    return EFFECT_BYTES
