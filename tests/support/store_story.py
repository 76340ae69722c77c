"""A short life of a store in which everything happens once, for tests that end it at every point."""

from collections.abc import Callable, Iterator
from pathlib import Path

from posthouse.store.interface import Batch, Committed, Mark, Store
from posthouse.store.sqlite import SqliteStore, checks, writer
from posthouse.store.sqlite.connection import How, open_to_write
from posthouse.store.sqlite.schema import SCHEMA
from store_model import StoreModel
from store_samples import EVERYTHING, Promoted, mailbox, message, shelves

BOXES = [mailbox(no, shelf=no % 3) for no in range(1, 8)]


def batches() -> Iterator[Batch]:
    """Appends small and large, repeats, deletes, marks, expiry, a purge: what each does depends on those before."""

    def some(first: int, count: int, size: int = 20) -> list:  # type: ignore[type-arg]
        return [
            message(
                seq, BOXES[seq % 7], b"%d " % seq * (size // 4), expires_at=5000 + seq, guest=seq % 5 == 0
            )
            for seq in range(first, first + count)
        ]

    yield Batch(1, 1000, reserve_seq=50)
    yield Batch(2, 1001, appends=some(1, 30))
    yield Batch(3, 1002, deletes=[1, 2, 3, 4, 5], appends=some(40, 3, size=9000))
    yield Batch(4, 1003, marks=[Mark(seq, "bucket", name) for seq in (6, 7, 41) for name in ("one", "two")])
    repeat = message(60, BOXES[6 % 7], b"6 " * 5, expires_at=9000)
    yield Batch(5, 1004, appends=[repeat, *some(61, 5)], deletes=[41])
    yield Batch(6, 5012, expire_limit=4)
    yield Batch(7, 5013, purges=[BOXES[2].no], expire_limit=100)
    yield Batch(8, 5014, appends=some(100, 10, size=2000), deletes=list(range(10, 20)))


def live(store: Store, tell: Callable[[int], object]) -> None:
    """The whole life; ``tell`` hears the epoch once as a negative number, then every batch that was promised."""
    writer.CHECKPOINT_PAGES = 25  # type: ignore[misc]  # so that checkpoints and a new beginning of the log occur
    active = Promoted(store)
    tell(-active.fence.epoch)
    for batch in batches():
        assert isinstance(active.writer.commit(batch, active.fence), Committed)
        tell(batch.number)
        active.writer.tidy()
    active.close()


def expected_after(number: int) -> StoreModel:
    """What must be in the store after this many batches."""
    model = StoreModel()
    for batch in batches():
        if batch.number <= number:
            model.apply(batch)
    return model


def verify(path: Path, promised: list[int]) -> str | None:
    """Open what is left and compare it with what was promised; None if all is kept, else what is not."""
    if not promised and not path.exists():
        return None
    if not path.exists():
        return "the file is gone"
    connection = open_to_write(path, How(SCHEMA))
    try:
        epoch, number = connection.execute("SELECT epoch, batch FROM relay").get
        problems = checks.check(connection).problems
    finally:
        connection.close()
    if problems:
        return f"damaged: {problems}"
    last = max([0, *promised])
    if promised and epoch < -promised[0]:
        return "the promotion is lost"
    if not last <= number <= last + 1:
        return f"batch {last} was promised, {number} is there"
    reader = SqliteStore(path).open_reader()
    try:
        found = reader.page(shelves(0, 1, 2), 0, EVERYTHING, 0, 1000, 10**9).messages
        marked = {name: reader.waiting(marking_of(name), 0).count for name in ("one", "two")}
    finally:
        reader.close()
    model = expected_after(number)
    if found != model.source(shelves(0, 1, 2)):
        return f"the messages are not those after batch {number}"
    if marked != {name: len(model.source(marking_of(name))) for name in ("one", "two")}:
        return f"the marks are not those after batch {number}"
    return None


def marking_of(name: str):  # type: ignore[no-untyped-def]
    """A reader of the bucket over all shelves."""
    from store_samples import marking

    return marking(name, 0, 1, 2)
