"""What stands in a lease file: one JSON line of a fixed length, which older readers understand too.

The line is written in place while others read. The version of its record stands before and after everything else, so
that a reader notices when it saw half of a write.
"""

from __future__ import annotations

import os
from math import inf
from typing import Final

import msgspec
from msgspec import Struct

from posthouse.single_active.leases.interface import LeaseUnavailable, Record

LINE_BYTES: Final = 2048
TRIES: Final = 10


class Line(Struct):
    """The line. ``pid``, ``started`` and ``control_socket`` tell other programs who is active."""

    pid: int = 0
    started: float = 0.0
    control_socket: str | None = None
    record: Record | None = None
    end: str = ""
    """The version of ``record`` once more."""


class _Begin(Struct):
    begin: str = ""
    """The same, before everything else."""


def read_line(descriptor: int) -> tuple[bytes, Line]:
    """The line as it is, and what it says; without a record when it is empty or not of our making.

    Raises LeaseUnavailable if a whole one is never seen.
    """
    for _ in range(TRIES):
        raw = os.pread(descriptor, 65536, 0)
        text = raw.partition(b"\n")[0]
        if not text.strip():
            return raw, Line()
        try:
            line = msgspec.json.decode(text, type=Line)
            begin = msgspec.json.decode(text, type=_Begin).begin
        except msgspec.DecodeError:
            continue
        if line.record is None or begin == line.record.version == line.end:
            return raw, line
    raise LeaseUnavailable("the lease file does not hold a whole line")


def write_line(descriptor: int, line: Line) -> None:
    """Write in place. Raises OSError."""
    begin = msgspec.json.encode(_Begin(line.end))
    data = (begin[:-1] + b"," + msgspec.json.encode(line)[1:]).ljust(LINE_BYTES - 1) + b"\n"
    os.pwrite(descriptor, data, 0)
    if os.fstat(descriptor).st_size != len(data):
        os.ftruncate(descriptor, len(data))


def of_another_kind(line: Line) -> Record:
    """The record of a holder that only locks the file, and renews nothing: it never expires."""
    return Record(f"process {line.pid}", 0, 0, inf)


def free(line: Line) -> Record:
    """The record of a file that nobody has locked: whoever held it has ended."""
    if line.record is None:
        return Record("", 0, 0, 0.0, released=True)
    return msgspec.structs.replace(line.record, released=True)
