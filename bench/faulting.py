"""The faults of `python -m bench faults`: each does its harm, waits, and puts things right again."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import RunFailed
from bench.members import Member, Members
from bench.postgres import PostgresServer
from bench.wire import Closed, Connection, device_key, take_all

LEASE_DURATION_S = 5.0
BEYOND_LEASE_S = 2.0
"""A stopped active stays stopped for this much longer than its lease lasts."""
SILENT_LINK_S = 4.0
FULL_S = 3.0
DISK_BYTES = 256 << 20
NOTICE_LIMIT_S = 10.0
_CHUNK_BYTES = 1 << 20
_FILLER_BYTES = 64 << 10
_FILLERS_READER = device_key("filler's reader")


@dataclass
class Scene:
    """What faults are done to."""

    members: Members
    random: random.Random
    engine: PostgresServer | None = None
    disk: Path | None = None
    """A small file system of its own with the store on it."""
    broken: list[str] = field(default_factory=list)
    """What should not have been."""

    def active(self) -> Member:
        """The member that is active now. Raises RunFailed."""
        return self.members.wait_active()[0]

    def standby(self) -> Member:
        """One of the others."""
        active = self.active()
        return self.random.choice([member for member in self.members.all if member is not active])

    def victim(self) -> tuple[str, Member]:
        """Mostly the active."""
        return ("the active", self.active()) if self.random.random() < 0.75 else ("a standby", self.standby())


Fault = Callable[[Scene], str]
"""Says what it did."""


def kill(scene: Scene) -> str:
    """kill -9, and a start."""
    role, victim = scene.victim()
    victim.kill()
    scene.members.start(victim)
    return f"kill -9 of {role}"


def terminate(scene: Scene) -> str:
    """SIGTERM, and a start."""
    role, victim = scene.victim()
    code = victim.terminate()
    if code != 0:
        scene.broken.append(f"SIGTERM of {role}: exit code {code}: {victim.last_words()}")
    scene.members.start(victim)
    return f"SIGTERM of {role}"


def stop_active(scene: Scene) -> str:
    """SIGSTOP for longer than the lease lasts. It may have been killed in between by a member that claims."""
    victim = scene.active()
    victim.freeze()
    time.sleep(LEASE_DURATION_S + BEYOND_LEASE_S)
    victim.thaw()
    time.sleep(0.1)
    if victim.runs:
        return "SIGSTOP of the active, SIGCONT"
    scene.members.start(victim)
    return "SIGSTOP of the active, killed by its successor"


def silence_link(scene: Scene) -> str:
    """A standby says nothing on its link for longer than a link may be silent."""
    victim = scene.standby()
    victim.freeze()
    time.sleep(SILENT_LINK_S)
    victim.thaw()
    return "link silent: SIGSTOP of a standby, SIGCONT"


def fill_disk(scene: Scene) -> str:
    """No byte is left on the store's disk, for a while after the store has noticed."""
    if scene.disk is None:
        raise RunFailed("there is no disk of its own to fill")
    ballast = scene.disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(_CHUNK_BYTES))
        noticed = _refused(scene.active().address)
        end = time.monotonic() + FULL_S
        while time.monotonic() < end:
            with suppress(OSError):  # the members free and take a little all the time
                file.write(bytes(_CHUNK_BYTES))
            time.sleep(0.01)
    ballast.unlink()
    with suppress(Closed):
        take_all(scene.active().address, _FILLERS_READER)
    return "disk full, free again" if noticed else "disk full but not for the store, free again"


def _refused(address: str) -> bool:
    """Publish until a message is refused; whether that was so. What a write-ahead log has room for is still taken."""
    end = time.monotonic() + NOTICE_LIMIT_S
    with suppress(Closed), Connection(address, device_key("filler")) as connection:
        recipient = _FILLERS_READER.address
        for ref in itertools.count():
            item = {
                "type": "publish",
                "ref": ref,
                "recipient": recipient,
                "ciphertext": os.urandom(_FILLER_BYTES),
            }
            connection.send(item)
            for answer in connection.receive(end - time.monotonic()):
                if answer["type"] == "result" and answer["status"] == "rejected":
                    return True
            if time.monotonic() > end:
                break
    return False


def restart_engine(scene: Scene) -> str:
    """The PostgreSQL server ends and comes back."""
    if scene.engine is None:
        raise RunFailed("there is no PostgreSQL server to restart")
    scene.engine.stop()
    scene.engine.start()
    return "PostgreSQL restarted"


def kinds(scene: Scene) -> list[Fault]:
    """Those that this scene allows."""
    found: list[Fault] = [kill, terminate, stop_active, silence_link]
    if scene.disk is not None:
        found.append(fill_disk)
    if scene.engine is not None:
        found.append(restart_engine)
    return found


def mount_disk(place: Path) -> None:
    """A small file system in memory. Raises RunFailed where that is not allowed."""
    _libc_call("mount", b"none", os.fsencode(place), b"tmpfs", 0, f"size={DISK_BYTES}".encode())


def unmount_disk(place: Path) -> None:
    """Raises RunFailed."""
    detach = 2
    _libc_call("umount2", os.fsencode(place), detach)


def _libc_call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise RunFailed(f"{name}: {os.strerror(ctypes.get_errno())}")
