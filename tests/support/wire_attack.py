"""What the tests with hostile peers measure: that a healthy client is served meanwhile, and how large the relay is."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

from relay_process import RelayProcess
from wire_client import WireClient
from wire_keys import Key
from wire_socket import TIMEOUT_S

SERVED_WITHIN_S = TIMEOUT_S
"""Generous: machines that test are busy. A relay that an attack blocks does not answer at all."""
MIB = 1 << 20


def memory_bytes(relay: RelayProcess) -> int:
    """Resident memory of the relay's process."""
    for line in Path(f"/proc/{relay.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


class Patient:
    """A healthy client with an address of its own, connected before the attack begins."""

    def __init__(self, relay: RelayProcess, key: Key) -> None:
        self._client = WireClient(relay.port).open(key)
        self._client.subscribe()
        self._key = key
        self._count = 0

    def is_served(self) -> None:
        """A message to itself comes back, and its result."""
        begun = time.monotonic()
        self._count += 1
        ref = self._client.publish(b"to myself %d" % self._count, recipient=self._key.address)
        self._client.ack(self._client.message()["id"])
        assert self._client.result(ref)["status"] in ("delivered", "stored")
        assert time.monotonic() - begun < SERVED_WITHIN_S

    def close(self) -> None:
        """End its connection."""
        self._client.close()


def wait_until(true: Callable[[], object], timeout_s: float = 3 * TIMEOUT_S) -> None:
    """Ask again and again, each time by way of the relay."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline


def raise_open_files(wanted: int) -> bool:
    """Allow this process, and the relays that it starts, so many open files; whether that is possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            return False
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True
