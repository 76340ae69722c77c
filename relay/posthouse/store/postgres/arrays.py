"""Lists as PostgreSQL's binary arrays, and its binary values as Python's.

One array a column spares the parameters of a row each; the engine takes them apart with ``unnest``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from psycopg.pq.abc import PGresult

_HEADER: Final = struct.Struct(">iiiii").pack
_SIZE: Final = struct.Struct(">i").pack
_INT8: Final = struct.Struct(">q").pack
_BOOL_OID, _BYTEA_OID, _INT8_OID, _TEXT_OID = 16, 17, 20, 25
_EIGHT: Final = _SIZE(8)
_ONE: Final = _SIZE(1)


def _array(oid: int, count: int, body: bytes) -> bytes:
    """Dimensions, nulls, the type of the elements, how many, the first index; an empty array has no dimension."""
    return _HEADER(1, 0, oid, count, 1) + body if count else struct.pack(">iii", 0, 0, oid)


def int8s(values: Iterable[int]) -> bytes:
    """For ``int8[]``."""
    packed = [_INT8(value) for value in values]
    return _array(_INT8_OID, len(packed), _EIGHT + _EIGHT.join(packed))


def bools(values: Iterable[bool]) -> bytes:
    """For ``bool[]``."""
    packed = [b"\1" if value else b"\0" for value in values]
    return _array(_BOOL_OID, len(packed), _ONE + _ONE.join(packed))


def byteas(values: Iterable[bytes]) -> bytes:
    """For ``bytea[]``."""
    return _sized(_BYTEA_OID, values)


def texts(values: Iterable[str]) -> bytes:
    """For ``text[]``."""
    return _sized(_TEXT_OID, (value.encode() for value in values))


def _sized(oid: int, values: Iterable[bytes]) -> bytes:
    pieces: list[bytes] = []
    for value in values:
        pieces.append(_SIZE(len(value)))
        pieces.append(value)
    return _array(oid, len(pieces) // 2, b"".join(pieces))


def _integer(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _BOOL_OID: lambda value: value != b"\0",
    20: _integer,
    21: _integer,
    23: _integer,
    _TEXT_OID: bytes.decode,
}
"""By the oid of a type; values of other types stay bytes."""


def rows_of(result: PGresult) -> list[tuple[Any, ...]]:
    """The rows of a binary result."""
    columns: list[list[Any]] = []
    count = result.ntuples
    for at in range(result.nfields):
        decode = _DECODERS.get(result.ftype(at), bytes)
        values = [result.get_value(row, at) for row in range(count)]
        columns.append([None if value is None else decode(value) for value in values])
    return list(zip(*columns, strict=True))
