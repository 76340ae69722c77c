"""What every store does, on every engine. The order follows ``interface.Batch``; the last part is the reader's."""

import secrets

import pytest
from posthouse.store.interface import FENCED, Committed, Fence, Mark, Store, StoreUnavailable, Tally, Waiting
from store_samples import FOREVER, Promoted, mailbox, marking, message, own, promote, shelves

ALICE = mailbox(1, shelf=5)
BOB = mailbox(2, shelf=5)
CAROL = mailbox(3, shelf=6)


# --- promotion and fences ------------------------------------------------------------------------------------


def test_a_new_store_is_empty_and_belongs_to_nobody(store: Store) -> None:
    writer = store.open_writer()
    fence = writer.fence()
    assert (fence.epoch, fence.token, len(fence.incarnation)) == (0, b"", 16)
    recovered = writer.promote(fence, 7, b"t" * 16)
    assert recovered is not None
    assert recovered.fence == Fence(7, b"t" * 16, fence.incarnation)
    assert recovered.total == Tally()
    assert (recovered.next_seq, recovered.next_mailbox, recovered.batch) == (1, 1, 0)
    assert (recovered.clock_ms, recovered.next_expiry) == (0, 0)
    assert recovered.relay_id
    writer.close()


def test_a_promotion_finds_what_the_one_before_left(active: Promoted) -> None:
    relay_id = active.recovered.relay_id
    active.write(message(10, ALICE, b"abc", expires_at=5000), message(12, CAROL, b"de", guest=True))
    active.write(clock_ms=1234, reserve_seq=100)
    recovered = active.promote()
    assert recovered.total == Tally(2, 5, 1, 2)
    assert (recovered.next_seq, recovered.next_mailbox) == (100, 4)
    assert (recovered.clock_ms, recovered.next_expiry) == (1234, 5000)
    assert (recovered.relay_id, recovered.batch) == (relay_id, 0)


def test_sequence_numbers_go_on_above_the_highest_even_after_it_is_deleted(active: Promoted) -> None:
    active.write(message(41, ALICE))
    active.write(deletes=[41], reserve_seq=20)
    assert active.promote().next_seq == 42


def test_a_second_promotion_from_the_same_fence_is_refused(store: Store) -> None:
    first, second = store.open_writer(), store.open_writer()
    seen = first.fence()
    assert first.promote(seen, 1, b"1" * 16) is not None
    assert second.promote(seen, 2, b"2" * 16) is None
    assert first.fence() == Fence(1, b"1" * 16, seen.incarnation)
    first.close()
    second.close()


@pytest.mark.parametrize(("epoch", "token"), [(3, b"t" * 16), (2, b"t" * 16), (4, b"short")])
def test_a_promotion_must_raise_the_epoch_and_bring_a_token(store: Store, epoch: int, token: bytes) -> None:
    writer = store.open_writer()
    with pytest.raises(ValueError):
        writer.promote(Fence(3, b"", b"i" * 16), epoch, token)
    writer.close()


def test_a_writer_that_was_replaced_writes_nothing_any_more(store: Store) -> None:
    old, new = promote(store), promote(store)
    assert old.writer.commit(old.batch(message(1, ALICE)), old.fence) is FENCED
    new.write(message(2, ALICE))
    assert old.writer.commit(old.batch(message(3, ALICE), deletes=[2]), old.fence) is FENCED
    assert new.seqs(own(ALICE)) == [2]
    old.close()
    new.close()


@pytest.mark.parametrize("change", ["epoch", "token", "incarnation"])
def test_each_part_of_the_fence_counts(active: Promoted, change: str) -> None:
    fence = active.fence
    wrong = {
        "epoch": Fence(fence.epoch + 1, fence.token, fence.incarnation),
        "token": Fence(fence.epoch, secrets.token_bytes(16), fence.incarnation),
        "incarnation": Fence(fence.epoch, fence.token, secrets.token_bytes(16)),
    }[change]
    assert active.writer.commit(active.batch(message(1, ALICE)), wrong) is FENCED
    assert active.writer.promote(wrong, 99, b"t" * 16) is None
    assert active.seqs(own(ALICE)) == []


def test_a_batch_is_not_applied_twice(active: Promoted) -> None:
    batch = active.batch(message(1, ALICE))
    assert isinstance(active.writer.commit(batch, active.fence), Committed)
    assert active.writer.commit(batch, active.fence) is FENCED


# --- appends -------------------------------------------------------------------------------------------------


def test_what_was_appended_is_read_as_it_was(active: Promoted) -> None:
    sent = message(3, ALICE, bytes(range(256)), expires_at=77_000)
    active.write(sent, message(4, ALICE, b""))
    first, second = active.page(own(ALICE)).messages
    assert (first.seq, first.id, first.ciphertext) == (3, sent.id, bytes(range(256)))
    assert (first.mailbox, first.shelf) == (ALICE.no, ALICE.shelf)
    assert (first.received_at, first.expires_at) == (sent.received_at, 77_000)
    assert (second.seq, second.ciphertext) == (4, b"")


def test_a_repeat_is_not_written_again_and_keeps_the_later_expiry(active: Promoted) -> None:
    active.write(message(1, ALICE, b"same", expires_at=5000))
    assert active.write(message(2, ALICE, b"same", expires_at=4000)).duplicates == {2: 1}
    assert active.page(own(ALICE)).messages[0].expires_at == 5000
    outcome = active.write(message(3, ALICE, b"same", expires_at=6000), message(4, ALICE, b"other"))
    assert (outcome.duplicates, outcome.next_expiry) == ({3: 1}, 6000)
    assert [m.expires_at for m in active.page(own(ALICE)).messages] == [6000, FOREVER]
    assert outcome.tallies == {ALICE.no: Tally(2, 9)}


def test_a_repeat_within_one_batch_is_a_duplicate_of_the_first(active: Promoted) -> None:
    sent = [message(seq, ALICE, b"same", expires_at=seq * 1000) for seq in range(5, 75)]
    outcome = active.write(message(4, ALICE), *sent)
    assert outcome.duplicates == dict.fromkeys(range(6, 75), 5)
    assert active.page(own(ALICE)).messages[1].expires_at == 74_000


def test_the_same_ciphertext_in_two_mailboxes_is_two_messages(active: Promoted) -> None:
    assert active.write(message(1, ALICE, b"same"), message(2, BOB, b"same")).duplicates == {}
    assert active.seqs(shelves(5)) == [1, 2]


def test_a_repeat_of_an_expired_message_replaces_it(active: Promoted) -> None:
    active.write(message(1, ALICE, b"same", expires_at=2000), message(2, ALICE, expires_at=2000))
    active.write(marks=[Mark(1, "bucket", "reader")])
    outcome = active.write(
        message(3, ALICE, b"same", expires_at=9000),
        message(4, ALICE, b"same", expires_at=9500),
        clock_ms=2000,
    )
    assert outcome.duplicates == {4: 3}
    assert [(gone.seq, gone.id, gone.mailbox) for gone in outcome.gone] == [
        (1, message(1, ALICE, b"same").id, 1)
    ]
    assert outcome.tallies == {ALICE.no: Tally(2, 13)}
    assert active.seqs(marking("reader", 5), clock_ms=1000) == [2, 3]
    assert [m.expires_at for m in active.page(own(ALICE), clock_ms=2000).messages] == [9500]


def test_a_repeat_of_a_deleted_message_is_written(active: Promoted) -> None:
    active.write(message(1, ALICE, b"same"))
    assert active.write(message(2, ALICE, b"same"), deletes=[1]).duplicates == {}
    assert active.seqs(own(ALICE)) == [2]


def test_a_taken_sequence_number_is_refused_and_nothing_of_the_batch_is_written(active: Promoted) -> None:
    active.write(message(1, ALICE))
    with pytest.raises(StoreUnavailable, match="contradicts"):
        active.write(message(2, ALICE), message(1, BOB, b"another"))
    assert active.seqs(shelves(5)) == [1]
    active.write(message(3, ALICE))
    assert active.seqs(shelves(5)) == [1, 3]


def test_a_large_batch_of_large_and_small_messages_is_whole(active: Promoted) -> None:
    boxes = [mailbox(no, shelf=no % 3) for no in range(100)]
    sent = [message(seq, boxes[seq % 100], secrets.token_bytes(seq * 37 % 9000)) for seq in range(1, 600)]
    outcome = active.write(*sent)
    assert outcome.total == Tally(599, sum(len(m.ciphertext) for m in sent))
    assert len(outcome.tallies) == 100
    page = active.page(shelves(0, 1, 2))
    assert [(m.seq, m.id, m.ciphertext) for m in page.messages] == [(m.seq, m.id, m.ciphertext) for m in sent]


# --- deletes -------------------------------------------------------------------------------------------------


def test_deletes_of_unknown_numbers_are_passed_over(active: Promoted) -> None:
    active.write(*(message(seq, ALICE, b"%03d" % seq) for seq in range(1, 4)))
    outcome = active.write(deletes=[2, 99, 2])
    assert (outcome.tallies, outcome.total, outcome.gone) == ({ALICE.no: Tally(2, 6)}, Tally(2, 6), [])
    assert active.seqs(own(ALICE)) == [1, 3]
    assert active.write(deletes=[2, 99]).tallies == {}


def test_an_empty_mailbox_is_forgotten_and_can_come_back(active: Promoted) -> None:
    active.write(message(1, ALICE, guest=True), message(2, BOB))
    assert active.write(deletes=[1]).tallies == {ALICE.no: Tally()}
    assert active.reader.mailboxes([ALICE.key, BOB.key]) == {BOB.key: (BOB.no, Tally(1, 9))}
    active.write(message(3, ALICE))
    assert active.reader.mailboxes([ALICE.key]) == {ALICE.key: (ALICE.no, Tally(1, 9))}


def test_what_comes_and_goes_in_one_batch_leaves_a_zero_tally(active: Promoted) -> None:
    outcome = active.write(message(1, ALICE, expires_at=500), expire_limit=10)
    assert outcome.tallies == {ALICE.no: Tally()}
    assert (outcome.total, outcome.next_expiry, len(outcome.gone)) == (Tally(), 0, 1)
    assert active.reader.mailboxes([ALICE.key]) == {}


def test_guests_are_counted_apart(active: Promoted) -> None:
    outcome = active.write(message(1, ALICE, b"123"), message(2, ALICE, b"4567", guest=True))
    assert outcome.tallies == {ALICE.no: Tally(2, 7, 1, 4)}
    assert active.write(deletes=[2]).total == Tally(1, 3)


# --- marks ---------------------------------------------------------------------------------------------------


def test_a_mark_hides_a_message_from_that_reader_alone(active: Promoted) -> None:
    active.write(*(message(seq, ALICE) for seq in range(1, 5)))
    active.write(marks=[Mark(2, "bucket", "one"), Mark(2, "bucket", "one"), Mark(3, "bucket", "two")])
    assert active.seqs(marking("one", 5)) == [1, 3, 4]
    assert active.seqs(marking("two", 5)) == [1, 2, 4]
    assert active.seqs(marking("three", 5)) == [1, 2, 3, 4]
    assert active.seqs(marking("one", 5, bucket="another")) == [1, 2, 3, 4]
    assert active.seqs(own(ALICE)) == [1, 2, 3, 4]


def test_marks_of_unknown_messages_are_passed_over(active: Promoted) -> None:
    active.write(message(1, ALICE))
    outcome = active.write(marks=[Mark(99, "bucket", "one"), Mark(1, "bucket", "one")])
    assert outcome.tallies == {}
    active.write(message(99, ALICE))
    assert active.seqs(marking("one", 5)) == [99]


def test_marks_die_with_their_message(active: Promoted) -> None:
    active.write(message(1, ALICE, b"123"), message(2, ALICE, b"45"))
    active.write(marks=[Mark(1, "bucket", "one"), Mark(2, "bucket", "one"), Mark(1, "bucket", "two")])
    assert active.reader.waiting(marking("one", 5), 0) == Waiting(0, 0, 0)
    active.write(deletes=[1])
    assert active.reader.waiting(marking("one", 5), 0) == Waiting(0, 0, 0)
    assert active.reader.waiting(marking("two", 5), 0) == Waiting(1, 2, 0)
    active.write(deletes=[2])
    active.write(message(3, ALICE, b"6789"))
    assert active.reader.waiting(marking("one", 5), 0) == Waiting(1, 4, 0)


def test_beyond_the_limit_the_reader_that_marked_longest_ago_loses_its_marks(active: Promoted) -> None:
    active.write(message(1, ALICE), message(2, ALICE))
    active.write(marks=[Mark(1, "bucket", "one"), Mark(1, "bucket", "two")], readers_per_bucket=2)
    active.write(marks=[Mark(2, "bucket", "one"), Mark(1, "another", "three")], readers_per_bucket=2)
    active.write(marks=[Mark(1, "bucket", "three")], readers_per_bucket=2)
    assert active.seqs(marking("one", 5)) == []
    assert active.seqs(marking("two", 5)) == [1, 2]
    assert active.seqs(marking("three", 5)) == [2]
    assert active.seqs(marking("three", 5, bucket="another")) == [2]


def test_a_reader_that_was_forgotten_begins_anew(active: Promoted) -> None:
    active.write(message(1, ALICE), message(2, ALICE))
    for reader in ("one", "two"):
        active.write(marks=[Mark(1, "bucket", reader)], readers_per_bucket=1)
    active.write(marks=[Mark(2, "bucket", "one")], readers_per_bucket=1)
    assert active.seqs(marking("one", 5)) == [1]
    assert active.reader.waiting(marking("one", 5), 0).count == 1
    active.write(deletes=[1, 2])
    assert active.reader.waiting(marking("one", 5), 0).count == 0


def test_many_readers_mark_many_messages_in_one_batch(active: Promoted) -> None:
    active.write(*(message(seq, ALICE) for seq in range(1, 51)))
    active.write(
        marks=[
            Mark(seq, "bucket", f"reader {at}") for at in range(90) for seq in range(1, 51) if seq % 90 != at
        ]
    )
    assert active.seqs(marking("reader 7", 5)) == [7]
    assert active.seqs(marking("reader 80", 5)) == []


# --- purges and expiry ---------------------------------------------------------------------------------------


def test_a_purge_empties_a_mailbox_in_bounded_steps(active: Promoted) -> None:
    active.write(*(message(seq, (ALICE, BOB)[seq % 2], b"%02d" % seq) for seq in range(1, 11)))
    outcome = active.write(purges=[BOB.no], expire_limit=3)
    assert [gone.seq for gone in outcome.gone] == [1, 3, 5]
    assert outcome.tallies == {BOB.no: Tally(2, 4)}
    outcome = active.write(purges=[BOB.no, ALICE.no], expire_limit=3)
    assert sorted(gone.seq for gone in outcome.gone) == [2, 4, 6, 7, 9]
    assert outcome.tallies == {BOB.no: Tally(), ALICE.no: Tally(2, 4)}
    assert active.write(purges=[BOB.no], expire_limit=3).gone == []
    assert active.seqs(shelves(5)) == [8, 10]


def test_expiry_goes_by_the_clock_of_the_batch_oldest_first_in_bounded_steps(active: Promoted) -> None:
    active.write(*(message(seq, ALICE, expires_at=10_000 - seq) for seq in range(1, 6)))
    assert active.write(clock_ms=9_994, expire_limit=9).gone == []
    outcome = active.write(clock_ms=9_998, expire_limit=3)
    assert sorted((gone.seq, gone.id, gone.mailbox) for gone in outcome.gone) == [
        (seq, message(seq, ALICE).id, ALICE.no) for seq in (3, 4, 5)
    ]
    assert outcome.next_expiry == 9_998
    assert active.write(clock_ms=9_998).gone == []
    assert [gone.seq for gone in active.write(clock_ms=9_998, expire_limit=3).gone] == [2]


def test_a_raised_expiry_counts(active: Promoted) -> None:
    active.write(message(1, ALICE, b"same", expires_at=2000))
    active.write(message(2, ALICE, b"same", expires_at=3000))
    assert active.write(clock_ms=2500, expire_limit=9).gone == []
    assert [gone.seq for gone in active.write(clock_ms=3000, expire_limit=9).gone] == [1]


# --- reading -------------------------------------------------------------------------------------------------


def test_a_reader_knows_whether_a_mailbox_holds_a_message(active: Promoted) -> None:
    there, expiring = message(1, ALICE, b"one"), message(2, ALICE, b"two", expires_at=5000)
    active.write(there, expiring)
    holds = active.reader.holds
    assert holds(ALICE.no, there.id, 1000)
    assert holds(ALICE.no, expiring.id, 4999)
    assert not holds(ALICE.no, expiring.id, 5000)
    assert not holds(BOB.no, there.id, 1000)
    active.write(deletes=[1])
    assert not holds(ALICE.no, there.id, 1000)


def test_pages_go_on_where_the_one_before_ended(active: Promoted) -> None:
    active.write(*(message(seq, ALICE) for seq in range(1, 11)))
    first = active.page(own(ALICE), 0, 9, limit=4)
    assert ([m.seq for m in first.messages], first.complete) == ([1, 2, 3, 4], False)
    second = active.page(own(ALICE), 4, 9, limit=5)
    assert ([m.seq for m in second.messages], second.complete) == ([5, 6, 7, 8, 9], True)
    assert active.page(own(ALICE), 9, 9).complete


def test_a_page_is_bounded_in_bytes_but_has_at_least_one_message(active: Promoted) -> None:
    active.write(*(message(seq, ALICE, bytes([seq]) * 100) for seq in range(1, 6)))
    for max_bytes, expected in ((0, [1]), (199, [1]), (200, [1, 2]), (450, [1, 2, 3, 4])):
        page = active.page(own(ALICE), max_bytes=max_bytes)
        assert ([m.seq for m in page.messages], page.complete) == (expected, False)
    assert active.page(own(ALICE), max_bytes=500).complete


def test_expired_messages_are_not_shown(active: Promoted) -> None:
    active.write(*(message(seq, ALICE, expires_at=2000 if seq < 8 else 3000) for seq in range(1, 10)))
    seen: list[int] = []
    complete = False
    while not complete:
        page = active.page(own(ALICE), seen[-1] if seen else 0, clock_ms=2000, limit=2)
        assert page.messages, "an incomplete page has something, or its reader would not get on"
        seen += [m.seq for m in page.messages]
        complete = page.complete
    assert seen == [8, 9]
    nothing = active.page(own(ALICE), clock_ms=3000, limit=2)
    assert (nothing.messages, nothing.complete) == ([], True)


def test_an_owner_sees_its_own_mailbox_only(active: Promoted) -> None:
    active.write(message(1, ALICE), message(2, BOB), message(3, CAROL), message(4, ALICE))
    assert active.seqs(own(ALICE)) == [1, 4]
    assert active.seqs(own(mailbox(9))) == []


def test_a_bucket_is_read_over_all_its_shelves_in_order(active: Promoted) -> None:
    published = mailbox(4, shelf=(1 << 16) + 4)
    boxes = [ALICE, published, CAROL, BOB, mailbox(5, shelf=7)]
    active.write(*(message(seq, boxes[seq % 5]) for seq in range(1, 21)))
    expected = [seq for seq in range(1, 21) if seq % 5 != 4]
    source = shelves(6, 5, published.shelf, 5)
    assert active.seqs(source) == expected
    page = active.page(source, 6, 18, limit=4)
    assert ([m.seq for m in page.messages], page.complete) == ([7, 8, 10, 11], False)
    assert active.seqs(shelves()) == []


def test_lower_numbers_committed_later_are_in_their_place(active: Promoted) -> None:
    active.write(message(5, ALICE), message(6, BOB))
    active.write(message(3, CAROL), message(4, BOB))
    assert active.seqs(shelves(5, 6)) == [3, 4, 5, 6]


def test_what_waits_is_counted_without_what_the_reader_has_marked(active: Promoted) -> None:
    active.write(*(message(seq, (ALICE, CAROL)[seq % 2], b"%04d" % seq) for seq in range(1, 11)))
    active.write(marks=[Mark(seq, "bucket", "one") for seq in (9, 10)])
    assert active.reader.waiting(own(ALICE), 0) == Waiting(5, 20, 0)
    assert active.reader.waiting(own(mailbox(9)), 3) == Waiting(0, 0, 0)
    assert active.reader.waiting(shelves(5, 6, 5), 0) == Waiting(10, 40, 0)
    assert active.reader.waiting(marking("one", 5, 6), 0) == Waiting(8, 32, 0)
    assert active.reader.waiting(shelves(), 1) == Waiting(0, 0, 0)


def test_where_the_newest_messages_begin(active: Promoted) -> None:
    active.write(*(message(seq, (ALICE, CAROL)[seq % 2], b"%04d" % seq) for seq in range(1, 11)))
    active.write(marks=[Mark(seq, "bucket", "one") for seq in (9, 10)])
    assert active.reader.waiting(own(ALICE), 2).newest_from == 8
    assert active.reader.waiting(own(ALICE), 5).newest_from == 0
    assert active.reader.waiting(shelves(5, 6), 3).newest_from == 8
    assert active.reader.waiting(marking("one", 5, 6), 3).newest_from == 6
    assert active.reader.waiting(marking("one", 5, 6), 8).newest_from == 0


def test_only_known_mailboxes_are_found(active: Promoted) -> None:
    active.write(message(1, ALICE, b"123"), message(2, CAROL, b"4", guest=True))
    assert active.reader.mailboxes([]) == {}
    assert active.reader.mailboxes([BOB.key]) == {}
    assert active.reader.mailboxes([CAROL.key, BOB.key, ALICE.key]) == {
        ALICE.key: (ALICE.no, Tally(1, 3)),
        CAROL.key: (CAROL.no, Tally(1, 1, 1, 1)),
    }


def test_whether_a_mailbox_holds_a_message_is_known_by_its_id(active: Promoted) -> None:
    there = message(1, ALICE, b"same", expires_at=5000)
    active.write(there, message(2, BOB, b"other"))
    assert active.reader.holds(ALICE.no, there.id, 1000)
    assert not active.reader.holds(BOB.no, there.id, 1000)
    assert not active.reader.holds(ALICE.no, message(9, ALICE).id, 1000)
    assert not active.reader.holds(ALICE.no, there.id, 5000)
    active.write(deletes=[1])
    assert not active.reader.holds(ALICE.no, there.id, 1000)
