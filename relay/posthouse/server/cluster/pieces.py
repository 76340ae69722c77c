"""Batches that may be large, cut into some that are not: for a frame of a link, and for one turn of a broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from posthouse.exchange import Command, Effect, Outcomes
from posthouse.wire.messages import Ack, Message, Nack, Publish

PIECE_ITEMS: Final = 4096
PIECE_BYTES: Final = 8 * 2**20
"""A piece has about so many commands or effects, and bytes; one that is larger is a piece by itself."""
ITEM_BYTES: Final = 512
"""More than a command or an effect takes, in memory or in a frame, beside its ciphertext and its lists."""
ID_BYTES: Final = 128
"""The same for an entry of a list."""
T = TypeVar("T", bound=Command | Effect)


def in_pieces(batch: list[tuple[int, list[T]]]) -> Iterator[list[tuple[int, list[T]]]]:
    """The same for the same sessions, in the same order."""
    piece: list[tuple[int, list[T]]] = []
    count = size = 0
    for number, items in batch:
        some: list[T] = []
        for item in items:
            more = size_of(item)
            if count and (count >= PIECE_ITEMS or size + more > PIECE_BYTES):
                yield [*piece, (number, some)] if some else piece
                piece, some, count, size = [], [], 0, 0
            some.append(item)
            count += 1
            size += more
        if some:
            piece.append((number, some))
    if piece:
        yield piece


def size_of(item: Command | Effect) -> int:
    """About how many bytes it takes."""
    match item:
        case Publish() | Message():
            return ITEM_BYTES + len(item.ciphertext)
        case Ack() | Nack() | Outcomes():
            return ITEM_BYTES + ID_BYTES * len(item.ids)
        case _:
            return ITEM_BYTES
