"""What the store costs: messages appended in batches over many mailboxes, then drained by pages and deleted.

`python bench/micro/store.py [--messages N] [--batch N] [--mailboxes N] [--size BYTES] [--store URL]`

Prints CPU microseconds a message of the whole process, with the checkpoint, and beside them a bare loop of SQLite
inserts into one table without an index on the same disk, as the machine's own measure.
"""

import argparse
import hashlib
import os
import random
import resource
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw
from posthouse.store.interface import Append, Batch, Committed, Mailbox, MailboxNo, Source
from posthouse.store.opening import open_store


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(name: str, count: int, work: Callable[[], list[float]]) -> None:
    wall, cpu = time.perf_counter(), cpu_s()
    steps = sorted(work())
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    p50, p99 = steps[len(steps) // 2], steps[int(len(steps) * 0.99)]
    print(
        f"{name:<28} {cpu / count * 1e6:6.2f} µs CPU  {count / wall / 1e3:7.1f} k/s   "
        f"a step: p50 {p50 * 1e3:5.1f}  p99 {p99 * 1e3:5.1f}  max {steps[-1] * 1e3:5.1f} ms"
    )


def bare(folder: Path, messages: list[Append], batch: int) -> list[float]:
    connection = apsw.Connection(str(folder / "bare.db"))
    for pragma in ("journal_mode = wal", "synchronous = full", "wal_autocheckpoint = 4096"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE message (seq INTEGER PRIMARY KEY, mailbox, expires, id, ciphertext)")
    steps = []
    for at in range(0, len(messages), batch):
        start = time.perf_counter()
        with connection:
            for m in messages[at : at + batch]:
                row = (m.seq, m.mailbox.no, m.expires_at, bytes.fromhex(m.id), m.ciphertext)
                connection.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", row)
        steps.append(time.perf_counter() - start)
    connection.close()
    return steps


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (
        ("messages", 200_000),
        ("batch", 1500),
        ("mailboxes", 200),
        ("size", 512),
        ("page", 256),
        ("deletes", 1500),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--store", default="", help="default: a SQLite file in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        run(options, folder, options.store or f"sqlite:///{folder / 'store.db'}")


def run(options: argparse.Namespace, folder: Path, url: str) -> None:
    rng = random.Random(1)
    boxes = [
        Mailbox(MailboxNo(no), b"a" + secrets.token_bytes(32), rng.randrange(65536))
        for no in range(1, options.mailboxes + 1)
    ]
    body = secrets.token_bytes(options.size)
    messages = [
        Append(
            seq,
            rng.choice(boxes),
            hashlib.sha256(b"%d" % seq).hexdigest(),
            body,
            1_700_000_000_000 + seq // 50,
            1_702_592_000_000 + seq // 50,
            False,
        )
        for seq in range(1, options.messages + 1)
    ]
    measured("bare inserts", len(messages), lambda: bare(folder, messages, options.batch))
    store = open_store(url)
    writer, reader = store.open_writer(), store.open_reader()
    recovered = writer.promote(writer.fence(), writer.fence().epoch + 1, secrets.token_bytes(16))
    assert recovered is not None
    number = 0

    def commit(**fields: list[Append] | list[int]) -> None:
        nonlocal number
        number += 1
        batch = Batch(number, 1_700_000_000_000, **fields)  # type: ignore[arg-type]
        assert isinstance(writer.commit(batch, recovered.fence), Committed)
        writer.tidy()

    def append() -> list[float]:
        steps = []
        for at in range(0, len(messages), options.batch):
            start = time.perf_counter()
            commit(appends=messages[at : at + options.batch])
            steps.append(time.perf_counter() - start)
        return steps

    def drain() -> list[float]:
        """Every mailbox a page in turn, as many readers at once; deletes follow in batches."""
        steps, waiting = [], []
        after = dict.fromkeys(boxes, 0)
        while after:
            for box in list(after):
                start = time.perf_counter()
                page = reader.page(
                    Source((box.shelf,), box.no), after[box], 2**53, 1_700_000_000_000, options.page, 1 << 20
                )
                steps.append(time.perf_counter() - start)
                waiting += [m.seq for m in page.messages]
                if page.complete:
                    del after[box]
                else:
                    after[box] = page.messages[-1].seq
                if len(waiting) >= options.deletes or not after:
                    commit(deletes=waiting)
                    waiting = []
        return steps

    measured("append", len(messages), append)
    measured("page and delete", len(messages), drain)
    writer.close()
    reader.close()


if __name__ == "__main__":
    main()
