"""The model of a store: what it holds is the product's memory store, and it looks at every commit.

What arrives at the store happens at that instant. A commit that arrives again has the outcome it had.
"""

from __future__ import annotations

from posthouse.store.interface import FENCED, Batch, Committed, Doubt, Fence, Reader, Recovered
from posthouse.store.memory import MemoryStore
from sim_promises import Promises, Violation


class SimStore:
    """Shared by all members, if it fences; otherwise each process has one of its own."""

    def __init__(self, promises: Promises) -> None:
        store = MemoryStore()
        self.reader: Reader = store.open_reader()
        self._state = store._state
        self._writer = store.open_writer()
        self._promises = promises
        self._last: tuple[Batch, Committed | Doubt] | None = None

    @property
    def fence(self) -> Fence:
        """As it is now."""
        return self._writer.fence()

    def messages(self) -> set[str]:
        """The ids of all that is stored."""
        return {one.row.id for one in self._state.messages.values()}

    def promote(self, seen: Fence, epoch: int, token: bytes) -> Recovered | None:
        """Raise the epoch if the fence is the one seen."""
        now = self.fence
        if seen == now and epoch <= now.epoch:
            raise Violation(f"epoch {epoch} after {now.epoch}")
        return self._writer.promote(seen, epoch, token)

    def lets(self, fence: Fence) -> bool:
        """Whether this fence may write."""
        return fence == self.fence

    def commit(self, fence: Fence, batch: Batch) -> Committed | Doubt:
        """Write a batch, unless another promotion has replaced its fence."""
        if not self.lets(fence):
            return FENCED
        if fence != self.fence:
            raise Violation(f"a commit of epoch {fence.epoch} in epoch {self.fence.epoch}")
        return self._write(fence, batch)

    def _write(self, fence: Fence, batch: Batch) -> Committed | Doubt:
        if self._last is not None and self._last[0] is batch:
            return self._last[1]
        for seq in batch.deletes:
            held = self._state.messages.get(seq)
            if held is not None:
                self._promises.deleted(held.row.id)
        outcome = self._writer.commit(batch, fence)
        self._last = batch, outcome
        return outcome
