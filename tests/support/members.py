"""Several relays on one store: who is active, waiting for roles by what /status says, handing over.

Lease times are short unless a test sets others, so that a silent holder is soon found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posthouse.server.control import ask
from relay_process import RelayProcess
from wire_client import Item, WireClient
from wire_socket import Closed

WAIT_S = 20.0
LOOK_S = 0.01
PATIENT = {
    "POSTHOUSE_LEASE_DURATION_S": "5",
    "POSTHOUSE_LEASE_DEADLINE_S": "0.6",
    "POSTHOUSE_LEASE_RENEW_S": "0.2",
    "POSTHOUSE_LEASE_REQUEST_TIMEOUT_S": "0.2",
}
"""Soon in doubt, and long so."""
QUICK = PATIENT | {"POSTHOUSE_LEASE_DURATION_S": "1.0"}
NAMES = "abcdefgh"


def until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(LOOK_S)


class Members:
    """Members named a, b, c, …, each with a folder and a control socket of its own."""

    def __init__(
        self,
        folder: Path,
        count: int = 3,
        *arguments: str,
        store: str | None = None,
        config: str = "",
        timing: dict[str, str] = QUICK,
        own_control: bool = True,
        drain_s: float = 0,
    ) -> None:
        """`arguments`, `config` (TOML) and `timing` are those of every member. `own_control`: each has a control
        socket of its own; otherwise there is that of the active one, beside the SQLite file."""
        self.folder = folder
        self.store = store or f"sqlite:///{folder / 'relay.db'}"
        self.all = []
        for name in NAMES[:count]:
            own = folder / name
            own.mkdir(parents=True)
            environment = {"POSTHOUSE_SERVER_MEMBER": name, "XDG_RUNTIME_DIR": str(folder), **timing}
            if own_control:
                environment["POSTHOUSE_SERVER_CONTROL_SOCKET"] = str(own / "control")
            self.all.append(
                RelayProcess(
                    own,
                    *arguments,
                    store=self.store,
                    config=f"server.drain_s = {drain_s}\n{config}",
                    environment=environment,
                )
            )

    def start(self) -> Members:
        """Start all; the first is active when the others come."""
        self.all[0].start()
        self.wait_role(self.all[0], "active")
        for member in self.all[1:]:
            member.start_unseen()
        for member in self.all[1:]:
            self.wait_started(member)
        self.wait_whole()
        return self

    @staticmethod
    def wait_started(member: RelayProcess) -> None:
        """Wait until a member that was started unseen serves."""
        listening = member.wait_for("listening")
        member.port = int(listening["address"].rpartition(":")[2])
        member.metrics_port = int(listening["metrics"].rpartition(":")[2])

    def restart(self, member: RelayProcess) -> None:
        """Start one that has ended, and wait until it is a standby, or active, and known as ready to the others."""
        member.start_unseen()
        self.wait_started(member)
        self.wait_whole()

    def clean_up(self) -> None:
        """Leave no process behind."""
        for member in self.all:
            member.clean_up()

    # --- who is what

    @property
    def running(self) -> list[RelayProcess]:
        """Members whose process is there."""
        return [member for member in self.all if member.running]

    def name(self, member: RelayProcess) -> str:
        """Its name, without the part that changes with each start."""
        return NAMES[self.all.index(member)]

    def id_of(self, member: RelayProcess) -> str:
        """The id of this start."""
        found: str = member.status()["member"]
        return found

    def wait_role(self, member: RelayProcess, role: str) -> dict[str, Any]:
        """Wait until a member has this role; its status."""
        found: dict[str, Any] = {}

        def has_it() -> bool:
            nonlocal found
            found = member.status()
            return bool(found["role"] == role)

        until(has_it, f"{self.name(member)} is {role}, last {found}")
        return found

    def wait_active(
        self, among: Sequence[RelayProcess] | None = None, above: int = 0
    ) -> tuple[RelayProcess, int]:
        """Wait for an active member of an epoch above this one; and its epoch."""
        found: list[tuple[RelayProcess, int]] = []

        def there() -> bool:
            for member in self.running if among is None else among:
                status = member.status()
                if status["role"] == "active" and status["epoch"] > above:
                    found.append((member, status["epoch"]))
                    return True
            return False

        until(there, f"an active member above epoch {above}")
        return found[0]

    def split(self) -> tuple[RelayProcess, list[RelayProcess]]:
        """The active member, and the others that run."""
        active, _ = self.wait_active()
        return active, [member for member in self.running if member is not active]

    def wait_whole(self, among: Sequence[RelayProcess] | None = None) -> None:
        """Wait until one is active and all of these know each other as ready, and sessions are served everywhere."""
        expected = list(self.running if among is None else among)

        def whole() -> bool:
            statuses = [member.status() for member in expected]
            actives = [status for status in statuses if status["role"] == "active"]
            if len(actives) != 1:
                return False
            names = {status["member"] for status in statuses}
            known = {one["name"] for one in actives[0]["members"] if one["ready"]}
            return names <= known and {(one["active"], one["epoch"]) for one in statuses} == {
                (actives[0]["member"], actives[0]["epoch"])
            }

        until(whole, "one is active and the others are linked to it")

    # --- what is done to them

    @staticmethod
    def promote(at: RelayProcess, member: str = "") -> dict[str, Any]:
        """Have the member with this control socket see to a hand-over; the answer."""
        answer: dict[str, Any] = ask(at.folder / "control", {"command": "promote", "member": member})
        return answer


def survives(client: WireClient) -> bool:
    """Whether the connection still answers; what came before its pong stays in the inbox."""
    mark = f"alive {client.new_ref()}"
    try:
        client.send({"type": "ping", "t": mark})
        client.wait_for("pong", t=mark)
    except Closed:
        return False
    return True


def epochs(items: Sequence[Item]) -> list[int]:
    """What `epoch` items among these say."""
    return [item["epoch"] for item in items if item["type"] == "epoch"]


def settled(client: WireClient) -> list[Item]:
    """All that the client has been sent when the broker has answered once more; the front alone answers a ping."""
    client.wait_for("status", ref=client.request("status"))
    return client.settle()


def settled_texts(client: WireClient) -> list[bytes]:
    """The ciphertexts among that."""
    return [item["ciphertext"] for item in settled(client) if item["type"] == "message"]


@contextmanager
def members(folder: Path, count: int = 3, *arguments: str, **options: Any) -> Iterator[Members]:
    """Members that run inside the block."""
    made = Members(folder, count, *arguments, **options)
    try:
        yield made.start()
    finally:
        made.clean_up()
