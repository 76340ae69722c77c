"""What the PostgreSQL server takes when nothing is between: one row a message, one multi-row insert a transaction.

It prints the count and the seconds, then waits for its standard input to end: the CPU of the server's processes is
still to be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import psycopg

MAILBOXES = 200
_TABLE = """
    CREATE TABLE raw_message (
        seq bigint PRIMARY KEY, mailbox int NOT NULL, id text NOT NULL,
        ciphertext bytea NOT NULL, received_at bigint NOT NULL, expires_at bigint NOT NULL
    )"""
_INSERT = """
    INSERT INTO raw_message
    SELECT * FROM unnest(%b::bigint[], %b::int[], %b::text[], %b::bytea[], %b::bigint[], %b::bigint[])"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="rows a transaction")
    parser.add_argument("--size", type=int, default=512, help="bytes a message")
    arguments = parser.parse_args()
    with psycopg.connect(arguments.dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute(_TABLE)
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        begun = time.perf_counter()
        _insert_all(connection, arguments.messages, arguments.batch, arguments.size)
        seconds = time.perf_counter() - begun
        print(json.dumps({"messages": arguments.messages, "seconds": seconds}), flush=True)
        sys.stdin.readline()
    return 0


def _insert_all(
    connection: psycopg.Connection[tuple[object, ...]], messages: int, batch: int, size: int
) -> None:
    for first in range(0, messages, batch):
        numbers = range(first, min(first + batch, messages))
        now = int(time.time() * 1000)
        payload = os.urandom(size * len(numbers))
        connection.execute(
            _INSERT,
            (
                list(numbers),
                [number % MAILBOXES for number in numbers],
                [f"{number:064x}" for number in numbers],
                [payload[at * size : (at + 1) * size] for at in range(len(numbers))],
                [now] * len(numbers),
                [now + 86_400_000] * len(numbers),
            ),
            prepare=True,
        )


if __name__ == "__main__":
    sys.exit(main())
