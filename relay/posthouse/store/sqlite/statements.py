"""Ways to say much with few statements.

Every step of a statement gives the GIL away and takes it again, which costs more than the row when the event loop
is busy. So lists go in as one bound array, rows go in 64 at a time, and answers come back as one row of columns
that were joined by SQLite.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final

import apsw
import msgspec

ROWS: Final = 64
"""Rows of one insert. More gains nothing, and a statement's variables are limited."""

_LADDER: Final = (64, 16, 4, 1)
_decode: Final[Callable[[str], list[list[int]]]] = msgspec.json.Decoder(list[list[int]]).decode

JOINED_ID: Final = "CAST(group_concat(id, '') AS BLOB)"
"""All ids of the rows, 32 bytes each."""
JOINED_CIPHERTEXT: Final = "CAST(group_concat(ciphertext, '') AS BLOB)"
"""All ciphertexts of the rows; where one ends its length says."""


def numbers(values: Iterable[int]) -> object:
    """A list for ``carray(?)``. It must not be empty."""
    return apsw.carray(array("q", values))


def columns(*joined: str | None) -> list[list[int]]:
    """The numbers in columns made by ``group_concat``; all empty when there was no row."""
    if joined[0] is None:
        return [[] for _ in joined]
    return _decode(f"[[{'],['.join(joined)}]]")  # type: ignore[arg-type]


@cache
def values(width: int, rows: int) -> str:
    """The text ``VALUES (?, …), …``."""
    return "VALUES " + ", ".join(["(" + ", ".join("?" * width) + ")"] * rows)


def slices(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut rows into pieces of few different sizes, so that few different statements are prepared."""
    at, left = 0, len(rows)
    for size in _LADDER:
        while left >= size:
            yield rows[at : at + size]
            at += size
            left -= size
