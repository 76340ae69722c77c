"""Senders and readers at full load in threads, and books of what the relay has promised them.

Every ciphertext names its recipient, so that a reader sees by itself whether a message is its own. What a reader
acknowledges is in the books before the ack is sent: a `delivered` that is not there is a false promise.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from relay_process import RelayProcess
from wire_client import Item, WireClient
from wire_keys import Key, message_id
from wire_socket import TIMEOUT_S, Closed

WINDOW = 64
BATCH = 32
SIZE_BYTES = 512


class Books:
    """Who was promised what. Keys are (address, id)."""

    def __init__(self) -> None:
        self.promised: dict[tuple[str, str], set[str]] = {}
        """`stored` or `delivered`, said as such or by a `duplicate`."""
        self.acked: set[tuple[str, str]] = set()
        self.received: set[tuple[str, str]] = set()
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []
        self._changed = threading.Condition()
        self._results = 0

    def result(self, address: str, item: Item) -> None:
        """The relay has answered a publish."""
        status: str = item["status"]
        with self._changed:
            self._results += 1
            self.statuses[status] += 1
            self._changed.notify_all()
        if status == "duplicate":
            status = item["state"]
        if status in ("stored", "delivered"):
            self.promised.setdefault((address, item["id"]), set()).add(status)
        if status == "delivered" and (address, item["id"]) not in self.acked:
            self.fault(f"delivered, but its reader has not acknowledged it: {item}")

    def message(self, reader: Key, item: Item) -> None:
        """A reader was sent a message."""
        address = item["ciphertext"].split(b"|", 1)[0].decode()
        if address != reader.address or item["recipient"] != reader.address:
            self.fault(f"a message for {address} reached {reader.address}")
        if item["id"] != message_id(item["ciphertext"]):
            self.fault(f"not the id of its ciphertext: {item['id']}")
        self.received.add((address, item["id"]))

    def fault(self, what: str) -> None:
        """Something that must not happen."""
        with self._changed:
            self.faults.append(what)
            self._changed.notify_all()

    def wait_for_results(self, more: int, timeout_s: float = 6 * TIMEOUT_S) -> None:
        """Until so many more results have come."""
        with self._changed:
            wanted = self._results + more
            done = self._changed.wait_for(lambda: self.faults or self._results >= wanted, timeout_s)
        assert done, f"{self._results} of {wanted} results"
        assert not self.faults, self.faults[:5]

    @property
    def results(self) -> int:
        """How many results have come."""
        return self._results

    def lost(self) -> list[tuple[str, str]]:
        """What was promised and has never reached its reader."""
        return [name for name in self.promised if name not in self.received]


class Sender:
    """Publishes to a circle of recipients, up to WINDOW without a result; what had none is sent again next time."""

    def __init__(self, name: str, key: Key, recipients: Iterable[str], books: Books) -> None:
        self._name = name
        self._key = key
        self._recipients = list(recipients)
        self._books = books
        self._next = 0
        self._open: dict[int, tuple[str, bytes]] = {}
        """Without a result: ref → recipient and ciphertext."""

    def run(self, relay: RelayProcess, stopping: threading.Event) -> None:
        """Until `stopping`, and then until every publish has its result; or until the relay goes."""
        try:
            with WireClient(relay.port) as client:
                client.open(self._key)
                again, self._open = list(self._open.values()), {}
                self._send(client, again)
                while self._open or not stopping.is_set():
                    if not stopping.is_set() and len(self._open) <= WINDOW - BATCH:
                        self._send(client, [self._new() for _ in range(WINDOW - len(self._open))])
                    self._take(client.next_item())
        except (Closed, ConnectionRefusedError):
            pass
        except Exception as error:
            self._books.fault(f"{self._name}: {error!r}")

    def _new(self) -> tuple[str, bytes]:
        self._next += 1
        recipient = self._recipients[self._next % len(self._recipients)]
        text = f"{recipient}|{self._name}|{self._next}|"
        return recipient, text.encode().ljust(SIZE_BYTES, b".")

    def _send(self, client: WireClient, messages: list[tuple[str, bytes]]) -> None:
        items: list[Item] = []
        for recipient, ciphertext in messages:
            ref = client.new_ref()
            self._open[ref] = recipient, ciphertext
            items.append({"type": "publish", "ref": ref, "recipient": recipient, "ciphertext": ciphertext})
        client.send_array(items)

    def _take(self, item: Item) -> None:
        if item["type"] == "result":
            recipient, ciphertext = self._open.pop(item["ref"])
            if item["id"] != message_id(ciphertext):
                self._books.fault(f"another's result: {item}")
            self._books.result(recipient, item)


class Reader:
    """Reads its address. `acks` of 1 acknowledges everything, of n every n-th message only."""

    def __init__(self, key: Key, books: Books, acks: int = 1) -> None:
        self.key = key
        self._acks = acks
        self._books = books

    def run(self, relay: RelayProcess, stopping: threading.Event) -> None:
        """Until `stopping` and a short silence, or until the relay goes."""
        try:
            with WireClient(relay.port) as client:
                client.open(self.key, window=4096)
                client.request("subscribe")
                while True:
                    try:
                        self._take(client, client.next_item(0.2))
                    except TimeoutError:
                        if stopping.is_set():
                            return
        except (Closed, ConnectionRefusedError):
            pass
        except Exception as error:
            self._books.fault(f"reader: {error!r}")

    def drain(self, relay: RelayProcess) -> set[str]:
        """Everything that waits, acknowledged: the ids."""
        ids: set[str] = set()
        with WireClient(relay.port) as client:
            client.open(self.key, window=256)
            ref = client.request("subscribe", live=False)
            while (item := client.next_item()) != {"type": "caught_up", "ref": ref}:
                ids.update(self._take(client, item, everything=True))
            client.settle()
        return ids

    def _take(self, client: WireClient, item: Item, everything: bool = False) -> list[str]:
        """This item and the messages that came with it; the ids that were acknowledged."""
        ids = []
        while item["type"] == "message":
            self._books.message(self.key, item)
            if everything or item["seq"] % self._acks == 0:
                ids.append(item["id"])
            if not client.inbox or client.inbox[0]["type"] != "message":
                break
            item = client.inbox.popleft()
        if ids:
            self._books.acked.update((self.key.address, one) for one in ids)
            client.ack(*ids)
        return ids


@contextmanager
def load(
    relay: RelayProcess, senders: Iterable[Sender], readers: Iterable[Reader]
) -> Iterator[threading.Event]:
    """Everybody runs inside the block, and has ended after it; setting the event asks them to end well."""
    stopping = threading.Event()
    runs = [reader.run for reader in readers] + [sender.run for sender in senders]
    threads = [threading.Thread(target=run, args=(relay, stopping), daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield stopping
    finally:
        stopping.set()
        for thread in threads:
            thread.join(6 * TIMEOUT_S)
        assert not any(thread.is_alive() for thread in threads)
