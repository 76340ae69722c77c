"""A process that publishes without pause and knows how long it was without a promise.

It is told what to do by lines of JSON on standard input, and answers each with one line (`bench/probing.py` is the
other end):

* `connect`: addresses (the first is tried first, then the next at once), patience_s (null: a silent connection is kept)
* `run`: publish from now on. `mark`: forget the longest wait so far
* `peek`: the figures. `pause`: no new messages; the figures and all ids promised since `run`, when none is open

A message is sent again until it has a promise: `stored`, `delivered` or `duplicate`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from posthouse.identity import message_id

from bench.wire import Closed, Connection, Item, device_key

PROMISES = frozenset({"stored", "delivered", "duplicate"})
PAUSE_LIMIT_S = 60.0
CONNECT_LIMIT_S = 2.0
"""A connection that is not welcome within so long is tried anew: it may have been led to somebody who is gone."""
AGAIN_S = 0.001
"""After a refused connection or a rejected message."""


class Prober:
    """One publisher. The commands come from another thread."""

    def __init__(self, name: str, recipient: str, interval_s: float, window: int, size: int) -> None:
        self._key = device_key(name)
        self._recipient = recipient
        self._interval_s = interval_s
        self._window = window
        self._size = size
        self._changed = threading.Condition()
        self._addresses: list[str] = []
        self._patience_s: float | None = None
        self._moved = False
        self._running = False
        self._open: dict[int, bytes] = {}
        """Without a promise: ref → ciphertext, oldest first."""
        self._connection: Connection | None = None
        self._ref = 0
        self._heard = 0.0
        self._local = ""
        """Our end of the connection that there is."""
        self._epochs: list[int] = []
        """As the relay told them, each once as long as it stays."""
        self._reset()

    def _reset(self) -> None:
        self._promised: list[str] = []
        self._closed = 0
        self._codes: dict[str, int] = {}
        self._last = time.monotonic()
        self._longest_s = 0.0

    # --- the other thread

    def connect(self, addresses: list[str], patience_s: float | None) -> dict[str, Any]:
        """Leave the connection and open another."""
        with self._changed:
            self._addresses, self._patience_s, self._moved = addresses, patience_s, True
            self._changed.notify_all()
        return {}

    def run(self) -> dict[str, Any]:
        """Begin."""
        with self._changed:
            self._reset()
            self._running = True
            self._changed.notify_all()
        return {}

    def mark(self) -> dict[str, Any]:
        """What happens from now on counts."""
        with self._changed:
            self._longest_s = 0.0
        return {}

    def peek(self) -> dict[str, Any]:
        """The figures; the wait that goes on counts as long as it is."""
        with self._changed:
            return self._figures()

    def pause(self) -> dict[str, Any]:
        """End, and tell what was promised."""
        with self._changed:
            self._running = False
            done = self._changed.wait_for(lambda: not self._open, PAUSE_LIMIT_S)
            return {**self._figures(), "settled": done, "ids": self._promised}

    def _figures(self) -> dict[str, Any]:
        waiting_s = time.monotonic() - self._last if self._running or self._open else 0.0
        return {
            "promised": len(self._promised),
            "longest_ms": 1000 * max(self._longest_s, waiting_s),
            "closed": self._closed,
            "codes": self._codes,
            "local": self._local,
            "epochs": self._epochs,
        }

    # --- its own

    def forever(self) -> None:
        """Publish whenever it is told to."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._running or self._open or self._moved or self._unconnected
                )
            try:
                connection = self._opened()
                if connection is not None and (self._running or self._open):
                    self._turn(connection)
            except Closed as closed:
                self._lost(str(closed))

    @property
    def _unconnected(self) -> bool:
        """Whether a connection was asked for, and none could be made yet."""
        return bool(self._addresses) and self._connection is None

    def _opened(self) -> Connection | None:
        """The connection, made if need be; what had no promise goes out on it again. Raises Closed."""
        with self._changed:
            moved, self._moved = self._moved, False
        if moved and self._connection is not None:
            self._connection.close()
            self._connection = None
            with self._changed:
                self._local = ""
        if self._connection is None:
            if not self._addresses:
                return None
            self._connection = Connection(self._addresses[0], self._key, CONNECT_LIMIT_S)
            self._heard = time.monotonic()
            self._tell_epoch(self._connection.welcome["epoch"])
            with self._changed:
                self._local = self._connection.local
            if self._open:
                self._connection.send(*(self._publish(ref, text) for ref, text in self._open.items()))
        return self._connection

    def _lost(self, why: str) -> None:
        with self._changed:
            self._addresses = self._addresses[1:] + self._addresses[:1]
            self._closed += self._connection is not None
            self._local = ""
            self._codes[why] = self._codes.get(why, 0) + 1
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        else:
            time.sleep(AGAIN_S)

    def _turn(self, connection: Connection) -> None:
        begun = time.monotonic()
        if self._running and len(self._open) < self._window:
            self._ref += 1
            if not self._open:
                self._heard = begun
            self._open[self._ref] = os.urandom(self._size)
            connection.send(self._publish(self._ref, self._open[self._ref]))
        full = len(self._open) >= self._window
        while self._open and (full or time.monotonic() - begun < self._interval_s):
            limit_s = 0.05 if full else max(begun + self._interval_s - time.monotonic(), 0.0002)
            for item in connection.receive(limit_s):
                self._heard = time.monotonic()
                self._take(connection, item)
                full = full and len(self._open) >= self._window
            if self._moved:
                return
            if self._patience_s is not None and time.monotonic() - self._heard > self._patience_s:
                raise Closed("silent")
        rest_s = begun + self._interval_s - time.monotonic()
        if rest_s > 0:
            time.sleep(rest_s)

    def _tell_epoch(self, epoch: int) -> None:
        with self._changed:
            if self._epochs[-1:] != [epoch]:
                self._epochs.append(epoch)

    def _publish(self, ref: int, text: bytes) -> Item:
        return {"type": "publish", "ref": ref, "recipient": self._recipient, "ciphertext": text}

    def _take(self, connection: Connection, item: Item) -> None:
        if item["type"] == "goaway":
            raise Closed(f"goaway {item['reason']}")
        if item["type"] == "epoch":
            self._tell_epoch(item["epoch"])
        if item["type"] != "result" or item["ref"] not in self._open:
            return
        if item["status"] in PROMISES:
            now = time.monotonic()
            with self._changed:
                self._promised.append(message_id(self._open.pop(item["ref"])))
                self._longest_s = max(self._longest_s, now - self._last)
                self._last = now
                self._changed.notify_all()
            return
        with self._changed:
            code = str(item.get("code", item["status"]))
            self._codes[code] = self._codes.get(code, 0) + 1
        time.sleep(AGAIN_S)
        connection.send(self._publish(item["ref"], self._open[item["ref"]]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="names its key")
    parser.add_argument("--recipient", required=True)
    parser.add_argument("--interval-ms", type=float, default=1.0, help="from message to message, at least")
    parser.add_argument("--window", type=int, default=1, help="messages without a promise")
    parser.add_argument("--size", type=int, default=128, help="bytes a message")
    arguments = parser.parse_args()
    prober = Prober(
        arguments.name, arguments.recipient, arguments.interval_ms / 1000, arguments.window, arguments.size
    )
    threading.Thread(target=prober.forever, daemon=True).start()
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "connect": prober.connect, "run": prober.run, "mark": prober.mark, "peek": prober.peek, "pause": prober.pause,
    }  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("do")](**request)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
