"""What a store must do, said as plainly as possible: every answer is found by looking at every message."""

from dataclasses import dataclass, field

from posthouse.store.interface import Append, Batch, Gone, MailboxNo, Source, StoredMessage, Tally


@dataclass
class Kept:
    """A message in the store."""

    append: Append
    expires_at: int

    def row(self) -> StoredMessage:
        """As a page shows it."""
        a = self.append
        return StoredMessage(
            a.seq, a.id, a.mailbox.no, a.mailbox.shelf, a.ciphertext, a.received_at, self.expires_at
        )


@dataclass
class Answer:
    """What the model expects of ``Committed``."""

    duplicates: dict[int, int] = field(default_factory=dict)
    gone: list[Gone] = field(default_factory=list)
    changed: set[MailboxNo] = field(default_factory=set)


class StoreModel:
    """Messages in a list, marks in a list in the order in which they were made."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.marks: list[tuple[str, str, int]] = []

    def apply(self, batch: Batch) -> Answer:
        """One batch, field by field."""
        answer = Answer()
        for seq in batch.deletes:
            self._drop(answer, lambda kept, seq=seq: kept.append.seq == seq, gone=False)
        for append in batch.appends:
            self._append(answer, append, batch.clock_ms)
        for mark in batch.marks:
            if any(kept.append.seq == mark.seq for kept in self.kept):
                self._forget(mark.bucket, mark.reader, mark.seq)
                self.marks.append((mark.bucket, mark.reader, mark.seq))
        for bucket in {of for of, _, _ in self.marks} if batch.marks else ():
            self._limit_readers(bucket, batch.readers_per_bucket)
        for no in batch.purges:
            for kept in self._in_order(lambda kept, no=no: kept.append.mailbox.no == no)[
                : batch.expire_limit
            ]:
                self._drop(answer, lambda other, kept=kept: other is kept, gone=True)
        expired = [kept for kept in self.kept if kept.expires_at <= batch.clock_ms]
        expired.sort(key=lambda kept: (kept.expires_at, kept.append.seq))
        for kept in expired[: batch.expire_limit]:
            self._drop(answer, lambda other, kept=kept: other is kept, gone=True)
        return answer

    def _append(self, answer: Answer, append: Append, clock_ms: int) -> None:
        for kept in self.kept:
            if kept.append.mailbox.no == append.mailbox.no and kept.append.id == append.id:
                if kept.expires_at > clock_ms:
                    kept.expires_at = max(kept.expires_at, append.expires_at)
                    answer.duplicates[append.seq] = kept.append.seq
                    return
                self._drop(answer, lambda other, kept=kept: other is kept, gone=True)
                break
        self.kept.append(Kept(append, append.expires_at))
        answer.changed.add(append.mailbox.no)

    def _drop(self, answer: Answer, chosen, gone: bool) -> None:  # type: ignore[no-untyped-def]
        for kept in [kept for kept in self.kept if chosen(kept)]:
            a = kept.append
            self.kept.remove(kept)
            self.marks = [mark for mark in self.marks if mark[2] != a.seq]
            answer.changed.add(a.mailbox.no)
            if gone:
                answer.gone.append(Gone(a.seq, a.id, a.mailbox.no))

    def _forget(self, bucket: str, reader: str, seq: int | None = None) -> None:
        self.marks = [
            mark
            for mark in self.marks
            if mark[:2] != (bucket, reader) or (seq is not None and mark[2] != seq)
        ]

    def _limit_readers(self, bucket: str, limit: int) -> None:
        by_last_mark: dict[str, None] = {}
        for of, reader, _ in self.marks:
            if of == bucket:
                by_last_mark.pop(reader, None)
                by_last_mark[reader] = None
        for reader in list(by_last_mark)[: max(0, len(by_last_mark) - limit)]:
            self._forget(bucket, reader)

    def _in_order(self, chosen) -> list[Kept]:  # type: ignore[no-untyped-def]
        return sorted((kept for kept in self.kept if chosen(kept)), key=lambda kept: kept.append.seq)

    # --- what there is -------------------------------------------------------------------------------------

    def tally(self, no: MailboxNo | None = None) -> Tally:
        """Of a mailbox, or of everything."""
        chosen = [kept.append for kept in self.kept if no is None or kept.append.mailbox.no == no]
        guests = [append for append in chosen if append.guest]
        return Tally(
            len(chosen),
            sum(len(append.ciphertext) for append in chosen),
            len(guests),
            sum(len(append.ciphertext) for append in guests),
        )

    def next_expiry(self) -> int:
        """The lowest expiry, 0 if there is none."""
        return min((kept.expires_at for kept in self.kept), default=0)

    def source(self, source: Source) -> list[StoredMessage]:
        """Everything that a source offers, expired or not."""
        marked = {
            seq for bucket, reader, seq in self.marks if (bucket, reader) == (source.bucket, source.reader)
        }
        return [
            kept.row()
            for kept in self._in_order(lambda kept: kept.append.mailbox.shelf in source.shelves)
            if source.mailbox in (None, kept.append.mailbox.no) and kept.append.seq not in marked
        ]
