"""Every engine against a plain model, over random sequences of batches; after each, everything that can be asked."""

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from posthouse.store.interface import Batch, Committed, Mark, Source, StoredMessage
from store_model import StoreModel
from store_samples import EVERYTHING, Promoted, mailbox, marking, message, own, shelves

BOXES = [
    mailbox(1, shelf=3),
    mailbox(2, shelf=3),
    mailbox(3, shelf=4),
    mailbox(4, shelf=(1 << 16) + 4),
    mailbox(5, shelf=9),
]
COVERED = (3, 4)
"""The shelves of both buckets: a reader marks nothing that is not in its bucket."""
SOURCES = [
    *(own(box) for box in BOXES),
    shelves(3),
    shelves(4, 3, BOXES[3].shelf),
    *(marking(reader, *COVERED, bucket=bucket) for bucket in "AB" for reader in ("one", "two", "three")),
]

_seq = st.integers(1, 60)
_append = st.tuples(
    _seq, st.sampled_from(BOXES), st.sampled_from([b"", b"x", b"yy", b"zzz"]), st.integers(0, 30)
)
_step = st.fixed_dictionaries(
    {
        "forward": st.integers(0, 6),
        "deletes": st.lists(_seq, max_size=4),
        "appends": st.lists(st.tuples(_append, st.booleans()), max_size=12),
        "marks": st.lists(
            st.builds(Mark, _seq, st.sampled_from("AB"), st.sampled_from(["one", "two", "three"])), max_size=6
        ),
        "readers": st.integers(1, 3),
        "purges": st.lists(st.sampled_from([box.no for box in BOXES]), max_size=2, unique=True),
        "limit": st.sampled_from([0, 0, 1, 3, 100]),
        "again": st.sampled_from([False, False, False, True]),
    }
)


@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(_step, min_size=1, max_size=8))
def test_a_store_does_what_the_model_does(fresh_store, steps) -> None:  # type: ignore[no-untyped-def]
    model = StoreModel()
    active = Promoted(fresh_store())
    clock_ms = 10
    try:
        for step in steps:
            clock_ms += step["forward"]
            _write(active, model, step, clock_ms)
            if step["again"]:
                recovered = active.promote()
                assert (recovered.total, recovered.next_expiry) == (model.tally(), model.next_expiry())
                assert recovered.clock_ms == clock_ms
            for source in SOURCES:
                _compare(active, model, source, clock_ms)
    finally:
        active.close()


def _write(active: Promoted, model: StoreModel, step, clock_ms: int) -> None:  # type: ignore[no-untyped-def]
    deleted = set(step["deletes"])
    taken = {kept.append.seq for kept in model.kept} - deleted
    appends = {}
    for (seq, box, body, lives_ms), guest in step["appends"]:
        if seq not in taken:
            appends[seq] = message(seq, box, body, expires_at=clock_ms + lives_ms, guest=guest)
    covered = {append.seq for append in appends.values() if append.mailbox.shelf in COVERED}
    covered |= {kept.append.seq for kept in model.kept if kept.append.mailbox.shelf in COVERED}
    everywhere = {kept.append.seq for kept in model.kept} | set(appends)
    batch: Batch = active.batch(
        *(appends[seq] for seq in sorted(appends)),
        clock_ms=clock_ms,
        deletes=step["deletes"],
        marks=[mark for mark in step["marks"] if mark.seq in covered or mark.seq not in everywhere],
        readers_per_bucket=step["readers"],
        purges=step["purges"],
        expire_limit=step["limit"],
    )
    expected = model.apply(batch)
    outcome = active.writer.commit(batch, active.fence)
    assert isinstance(outcome, Committed)
    assert outcome.duplicates == expected.duplicates
    assert sorted(outcome.gone, key=lambda gone: gone.seq) == sorted(expected.gone, key=lambda gone: gone.seq)
    assert outcome.tallies == {no: model.tally(no) for no in expected.changed}
    assert (outcome.total, outcome.next_expiry) == (model.tally(), model.next_expiry())


def _compare(active: Promoted, model: StoreModel, source: Source, clock_ms: int) -> None:
    everything = model.source(source)
    waiting = active.reader.waiting(source, 2)
    assert waiting.count == len(everything)
    assert waiting.bytes == sum(len(row.ciphertext) for row in everything)
    assert waiting.newest_from == (everything[-2].seq if len(everything) > 2 else 0)
    fresh = [row for row in everything if row.expires_at > clock_ms]
    seen: list[StoredMessage] = []
    while True:
        page = active.page(
            source, seen[-1].seq if seen else 0, EVERYTHING, clock_ms=clock_ms, limit=3, max_bytes=5
        )
        seen += page.messages
        if page.complete:
            break
        assert page.messages
    assert seen == fresh
    known = active.reader.mailboxes([box.key for box in BOXES])
    assert known == {box.key: (box.no, model.tally(box.no)) for box in BOXES if model.tally(box.no).count}
