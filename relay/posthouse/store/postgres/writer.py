"""The one writing connection of a process: fence, promotion, commit, and what to do when a commit fails.

How certain a failure is:

* an error before COMMIT, or a connection lost before COMMIT was sent: nothing was written, for certain;
* a connection lost or given up after COMMIT was sent, and a commit that the engine confirmed with a warning (it did
  not wait for its standbys): unknown. ``resolve`` then changes and commits the fence row over a new connection. That
  waits for the lost transaction, keeps one that is still on its way from matching, and is itself only confirmed when
  all that it saw is as safe as it.
"""

from __future__ import annotations

from typing import Final

import structlog
from msgspec import Struct

from posthouse.store.interface import (
    FENCED,
    UNKNOWN,
    Batch,
    Committed,
    Doubt,
    Fence,
    MailboxNo,
    Recovered,
    StoreUnavailable,
    Tally,
    check_promotion,
)
from posthouse.store.postgres import statements as sql
from posthouse.store.postgres.applying import Applying, Known
from posthouse.store.postgres.arrays import int8s
from posthouse.store.postgres.connection import Connection, ConnectionLost, Refused, Rows, Statement
from posthouse.store.postgres.places import Places
from posthouse.store.postgres.writing_session import WritingSession, roll_back

TRIES: Final = 4
"""Of one commit: over a new session, with what is known already, and after a question that came late."""
_ENDED_BY_THE_ENGINE: Final = frozenset({"57P01", "57P02", "57P05", "25P03", "25P04"})
"""Fatal errors that the engine itself reports in their place: what came after was not done. A pooler's own errors may
come before answers that it has lost."""

_log = structlog.get_logger()


class _Doubtful(Struct):
    """A commit whose outcome is unknown."""

    applying: Applying
    fence: Fence
    answer: Committed | None
    """For the case that it is there; None if the engine's answers were lost with it."""


class _KnownAlready(Exception):
    """Something that was to be appended is there already."""


class PostgresWriter:
    """See ``interface.Writer``."""

    def __init__(self, session: WritingSession, places: Places) -> None:
        self._session = session
        self._places = places
        self._known: Known | None = None
        self._doubt: _Doubtful | None = None

    # --- the fence -------------------------------------------------------------------------------------------

    def relay_id(self) -> str:
        return self._session.relay_id()

    def fence(self) -> Fence:
        return self._session.state()[0]

    def promote(self, seen: Fence, epoch: int, token: bytes) -> Recovered | None:
        check_promotion(seen, epoch, token)
        if self.fence() != seen:
            return None
        connection = self._session.sound()
        found = (seen.epoch, seen.token, seen.incarnation)
        try:
            self._session.take_over(connection, seen, epoch)
            changed, more = self._change(connection, (sql.PROMOTE, (*found, epoch, token)))
        except (ConnectionLost, Refused) as error:
            connection.close()  # whatever it has begun ends with it
            raise self._session.unavailable(error) from error
        if not changed:
            return None
        relay_id, clock_ms, next_seq, *total = changed[0]
        next_mailbox, next_expiry, highest_seq, marks = more[0]
        fence = Fence(epoch, token, seen.incarnation)
        self._doubt = None
        self._places.forget()
        self._known = Known(fence, 0, 0, highest_seq, next_expiry, marks)
        return Recovered(
            fence=fence,
            batch=0,
            relay_id=relay_id,
            clock_ms=clock_ms,
            next_seq=next_seq,
            next_mailbox=MailboxNo(next_mailbox),
            total=Tally(*total),
            next_expiry=next_expiry,
        )

    def _change(self, connection: Connection, change: Statement) -> list[Rows]:
        """Change the fence in a transaction that is confirmed without a warning; its rows, and what is there."""
        answers = connection.run([sql.BEGIN, change, (sql.FOUND, ()), sql.COMMIT])
        if connection.warned:
            raise ConnectionLost("the engine did not wait for its standbys")
        return answers[1:3]

    # --- batches ---------------------------------------------------------------------------------------------

    def commit(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        if self._doubt is not None:
            raise self._session.unavailable("an earlier commit is in doubt")
        return self._write(batch, fence)

    def _write(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        known = self._known
        if known is None or known.fence != fence:
            return FENCED  # this writer was not promoted with it
        settled = False
        for _ in range(TRIES):
            connection = self._session.sound()
            try:
                return self._apply(connection, Applying(batch, known, self._places), known, settled)
            except _KnownAlready:
                settled = True
            except ConnectionLost as error:
                raise self._session.unavailable(error) from error
            except Refused as refused:
                if refused.fatal:
                    continue  # the session was ended: over a new one we hear why
                roll_back(connection)
                if refused.at != 1 or refused.sqlstate != sql.GUARD_FAILED:
                    raise self._session.unavailable(refused) from refused
                if not self._is_ours(batch, known):
                    return FENCED
        raise self._session.unavailable("the engine ends the session again and again")

    def _apply(
        self, connection: Connection, applying: Applying, known: Known, settled: bool
    ) -> Committed | Doubt:
        start = [sql.BEGIN, *applying.advance()]
        if settled:
            *answers, found = connection.run([*start, applying.ask_known()])
            applying.hear(answers)
            applying.settle(found)
            start = []
        statements = [*start, *applying.rest()]
        try:
            if not applying.is_due:
                return self._conclude(connection, applying, known, statements)
            *answers, summary = connection.run(statements)
        except Refused as refused:
            self._look_at(connection, refused, statements, settled)
            raise
        applying.hear(answers)
        return self._conclude(connection, applying, known, [], applying.answer(summary))

    def _look_at(
        self, connection: Connection, refused: Refused, statements: list[Statement], settled: bool
    ) -> None:
        """Raise what an error of these statements means if it means more than itself."""
        text = statements[refused.at][0] if refused.at < len(statements) else ""
        if refused.sqlstate == sql.TAKEN and text == sql.INSERT and not settled:
            roll_back(connection)
            raise _KnownAlready from refused
        taken = refused.sqlstate == sql.TAKEN
        if taken or (refused.sqlstate == sql.GUARD_FAILED and text == sql.FREE):
            roll_back(connection)
            raise self._session.unavailable(f"the batch contradicts what is stored: {refused}") from refused

    def _conclude(
        self,
        connection: Connection,
        applying: Applying,
        known: Known,
        statements: list[Statement],
        answer: Committed | None = None,
    ) -> Committed | Doubt:
        """Send what is left, and COMMIT. Raises Refused when nothing was written, for certain."""
        try:
            *answers, _ = connection.run([*statements, sql.COMMIT])
        except ConnectionLost:
            return self._in_doubt(connection, applying, known, answer)
        except Refused as refused:
            if not _is_certain(refused, of_commit=refused.at == len(statements)):
                return self._in_doubt(connection, applying, known, answer)
            raise
        if answer is None:
            *answers, summary = answers
            applying.hear(answers)
            answer = applying.answer(summary)
        if connection.warned:
            return self._in_doubt(connection, applying, known, answer)
        return self._confirmed(applying.batch, known, answer)

    def _in_doubt(
        self, connection: Connection, applying: Applying, known: Known, answer: Committed | None
    ) -> Doubt:
        connection.close()
        self._doubt = _Doubtful(applying, known.fence, answer)
        return UNKNOWN

    def _confirmed(self, batch: Batch, known: Known, answer: Committed) -> Committed:
        known.batch = batch.number
        known.next_expiry = answer.next_expiry
        if batch.appends:
            self._places.learn([(m.seq, m.mailbox.no) for m in batch.appends])
            known.highest_seq = max(known.highest_seq, batch.appends[-1].seq)
        if batch.marks:
            known.marks = True
            known.readers_per_bucket = batch.readers_per_bucket
        return answer

    def _is_ours(self, batch: Batch, known: Known) -> bool:
        """The fence row did not match: find out why. True if only our own question about a commit came late."""
        fence, number, attempt = self._session.state()
        self._look_back(known, fence, number)
        if fence != known.fence or attempt == known.attempt or not known.batch <= number < batch.number:
            return False
        known.attempt = attempt
        return True

    def _look_back(self, known: Known, fence: Fence, number: int) -> None:
        ours = known.fence
        if fence.epoch < ours.epoch or (fence == ours and number < known.batch):
            _log.error(
                "the store went back in time: the engine has lost commits that it had confirmed",
                store=self._session.place,
                confirmed_epoch=ours.epoch,
                confirmed_batch=known.batch,
                found_epoch=fence.epoch,
                found_batch=number,
            )

    # --- after failures --------------------------------------------------------------------------------------

    def resolve(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        doubt, known = self._doubt, self._known
        if (
            doubt is None
            or known is None
            or (doubt.fence, doubt.applying.batch.number) != (fence, batch.number)
        ):
            raise ValueError(f"batch {batch.number} is not in doubt")
        boxes = int8s(doubt.applying.boxes)
        found = (fence.epoch, fence.token, fence.incarnation)
        try:
            connection = self._session.sound()
            answers = connection.run(
                [
                    sql.BEGIN,
                    (sql.ATTEMPT, found),
                    (sql.TOUCHED, (boxes,)),
                    doubt.applying.summary(),
                    sql.COMMIT,
                ]
            )
            if connection.warned:
                connection.close()
                return UNKNOWN
            _, ours, touched, summary, _ = answers
            if not ours:
                there, number, _ = self._session.state()
                self._look_back(known, there, number)
                self._doubt = None
                return FENCED
        except (ConnectionLost, Refused, StoreUnavailable):
            self._session.close()
            return UNKNOWN
        number, known.attempt = ours[0]
        self._doubt = None
        if number == batch.number:
            doubt.applying.tallies = {MailboxNo(no): Tally(*tally) for no, *tally in touched}
            return self._confirmed(batch, known, doubt.answer or doubt.applying.answer(summary))
        self._look_back(known, fence, number)
        if number > batch.number or number < known.batch:
            return FENCED
        return self._write(batch, fence)

    # --- house keeping ---------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Nothing to do: the engine vacuums by itself."""

    def close(self) -> None:
        self._session.close()


def _is_certain(refused: Refused, of_commit: bool) -> bool:
    """Whether nothing was written, for certain, by statements that ended in COMMIT."""
    if refused.fatal:
        return not of_commit and refused.sqlstate in _ENDED_BY_THE_ENGINE
    if of_commit:  # a conflict that the engine has resolved against it
        return refused.sqlstate[:2] in ("40", "23") and refused.sqlstate != "40003"
    return True
