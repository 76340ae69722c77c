"""Emptying a mailbox on an operator's command, in bounded steps, one a batch."""

from __future__ import annotations

from collections.abc import Callable

from posthouse.broker.directory import Directory
from posthouse.broker.ledger import Ledger
from posthouse.broker.records import Mailbox
from posthouse.store.interface import Batch, Committed, MailboxNo, StoreUnavailable

Purged = Callable[[int | StoreUnavailable], None]


class Purging:
    """Purges under way, by mailbox: how many messages have been deleted, and whom to tell."""

    def __init__(self, directory: Directory, ledger: Ledger) -> None:
        self._directory = directory
        self._ledger = ledger
        self._running: dict[MailboxNo, tuple[int, list[Purged]]] = {}

    def purge(self, address: str, purged: Purged) -> None:
        """Delete all that the store holds for a canonical address, and what is pending on its way there."""

        def begin(found: Mailbox | StoreUnavailable) -> None:
            if not isinstance(found, Mailbox):
                purged(found)
                return
            if found.no in self._running:
                self._running[found.no][1].append(purged)
                return
            self._ledger.hurry_mailbox(found)
            self._running[found.no] = (0, [purged])
            self._ledger.purges.append(found.no)

        self._directory.load(address, False, begin)

    def committed(self, batch: Batch, outcome: Committed) -> None:
        """A batch is done: go on with the mailboxes that are not empty, tell of those that are."""
        if not batch.purges:
            return
        for gone in outcome.gone:
            if gone.mailbox in self._running:
                count, told = self._running[gone.mailbox]
                self._running[gone.mailbox] = (count + 1, told)
        for no in batch.purges:
            tally = outcome.tallies.get(no)
            if tally is not None and tally.count:
                self._ledger.purges.append(no)
                continue
            count, told = self._running.pop(no)
            for purged in told:
                purged(count)

    def failed(self, batch: Batch) -> None:
        """The store did not take a batch: its purges end there, and whoever asked for them may ask again."""
        for no in batch.purges:
            count, told = self._running.pop(no)
            for purged in told:
                purged(
                    StoreUnavailable(f"the store takes no deletions now: {count} messages deleted until then")
                )
