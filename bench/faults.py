"""`python -m bench faults`: faults in random order on real members under load, and at the end the proof.

A sender and its reader are at different members all the time; another sender writes to somebody who is away. What was
promised must have reached the reader, or be there when the mailboxes are read back; the epochs in the store and in the
members' logs may only rise.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.describing import new_result
from bench.errors import NotMeasured, RunFailed
from bench.faulting import Fault, Scene, kinds, mount_disk, unmount_disk
from bench.members import Members
from bench.postgres import engine_beside
from bench.probing import ProberProcess
from bench.results import save
from bench.rounds import FaultsRun
from bench.runner import store_folder
from bench.wire import Closed, take_all
from bench.witness import EpochWatch, LiveReader, postgres_epoch, promotions, sqlite_epoch

MEMBERS = 3
PATIENCE_S = 6.0
"""Longer than a change of the active takes: only a member that is stopped for good is left."""
SETTLED_PROMISES = 20
ENVIRONMENT = {"POSTHOUSE_SERVER_DRAIN_S": "0.5", "POSTHOUSE_STORE_MIN_FREE_BYTES": "0"}
"""A member that ends sends its clients away soon, and a disk is filled to its last byte."""
READ_BACK_S = 120.0


class Traffic:
    """A sender whose reader is online at another member, and a sender to somebody who is away."""

    def __init__(self, members: Members, stack: ExitStack) -> None:
        self.senders = (
            stack.enter_context(ProberProcess("to a reader online", interval_ms=5.0, window=64)),
            stack.enter_context(ProberProcess("to a reader away", interval_ms=20.0, window=16)),
        )
        self._members = members
        self._reader = LiveReader(self.senders[0].reader, [member.address for member in members.all])

    def begin(self) -> None:
        """From now on all the time."""
        self.move(random.Random(0))
        for sender in self.senders:
            sender.run()

    def move(self, chance: random.Random) -> None:
        """Everybody to some member, the reader never to its sender's."""
        places = [member.address for member in chance.sample(self._members.all, len(self._members.all))]
        for sender in self.senders:
            sender.connect(places, PATIENCE_S)
        self._reader.move(places[1:] + places[:1])

    def mark(self) -> None:
        """All is well, and what follows is measured. Raises RunFailed."""
        self.wait_for_more()
        for sender in self.senders:
            sender.mark()

    def wait_for_more(self) -> None:
        """Messages are promised. Raises RunFailed."""
        for sender in self.senders:
            sender.wait_for_more(SETTLED_PROMISES)

    def longest_ms(self) -> list[float]:
        """The longest wait of each sender since the mark."""
        return [float(sender.peek()["longest_ms"]) for sender in self.senders]

    def end(self, found: FaultsRun) -> None:
        """Read everything back. Raises RunFailed."""
        promised = [set(sender.pause()["ids"]) for sender in self.senders]
        self._reader.end()
        active, _ = self._members.wait_active()
        try:
            received = [take_all(active.address, sender.reader, READ_BACK_S) for sender in self.senders]
        except Closed as closed:
            raise RunFailed(f"the messages cannot be read back: {closed}") from None
        received[0] |= self._reader.received
        found.promised = sum(map(len, promised))
        found.received = sum(len(said & there) for said, there in zip(promised, received, strict=True))
        found.lost = found.promised - found.received


def run(kind: str, count: int, seed: int, folder: Path, stack: ExitStack) -> FaultsRun:
    """So many faults on one store. Raises RunFailed when nothing can be told; NotMeasured without an engine."""
    found = FaultsRun(kind, seed, {}, 0, 0, 0, 0.0, [], 0)
    scene, read_epoch = _scene(kind, seed, folder, stack, found)
    scene.broken = found.broken
    scene.members.start_in_order()
    traffic = Traffic(scene.members, stack)
    with EpochWatch(read_epoch) as watch:
        traffic.begin()
        try:
            for number, fault in enumerate(_order(kinds(scene), count, scene.random)):
                _one(scene, fault, number, traffic, found)
        except RunFailed as failure:
            found.broken.append(f"after {sum(found.kinds.values())} faults: {failure}")
        traffic.end(found)
    found.epochs, wrong = promotions([member.log for member in scene.members.all])
    found.epochs_seen = watch.seen
    found.broken += [*watch.fallen, *wrong]
    if not found.epochs or found.epochs[-1] != watch.latest:
        found.broken.append(
            f"the logs do not tell of the promotion to epoch {watch.latest}, which is in the store"
        )
    return found


def _scene(
    kind: str, seed: int, folder: Path, stack: ExitStack, found: FaultsRun
) -> tuple[Scene, Callable[[], int]]:
    chance = random.Random(seed)
    if kind == "PostgreSQL":
        engine = stack.enter_context(engine_beside(folder))
        members = stack.enter_context(Members(folder, MEMBERS, engine.url(), environment=ENVIRONMENT))
        return Scene(members, chance, engine=engine), lambda: postgres_epoch(engine.dsn())
    disk: Path | None = folder / "disk"
    assert disk is not None
    disk.mkdir()
    file = disk / "store.db"
    try:
        mount_disk(disk)
        stack.callback(unmount_disk, disk)
    except RunFailed as failure:
        found.left_out.append(f"a full disk: a small file system cannot be made here ({failure})")
        disk = None
    members = stack.enter_context(Members(folder, MEMBERS, f"sqlite:///{file}", environment=ENVIRONMENT))
    return Scene(members, chance, disk=disk), lambda: sqlite_epoch(file)


def _order(known: list[Fault], count: int, chance: random.Random) -> list[Fault]:
    """Every kind equally often, as far as the count allows, in random order."""
    order = [known[number % len(known)] for number in range(count)]
    chance.shuffle(order)
    return order


def _one(scene: Scene, fault: Fault, number: int, traffic: Traffic, found: FaultsRun) -> None:
    traffic.move(scene.random)
    traffic.mark()
    begun = time.monotonic()
    what = fault(scene)
    scene.members.wait_all_ready()
    traffic.wait_for_more()
    online_ms, away_ms = traffic.longest_ms()
    _, epoch = scene.members.wait_active()
    found.kinds[what] = found.kinds.get(what, 0) + 1
    found.longest_ms = max(found.longest_ms, online_ms, away_ms)
    print(
        f"  {number + 1:3}  {what:47} {time.monotonic() - begun:4.0f} s  epoch {epoch:3}  longest wait for a promise:"
        f" reader online {online_ms:5.0f} ms, away {away_ms:5.0f} ms",
        flush=True,
    )


def main(words: list[str], default_path: Callable[[str], Path]) -> int:
    """The command. The status is 1 when anything was lost, or was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="faults in all")
    parser.add_argument("--seed", type=int, help="the same order again; default: another each time")
    parser.add_argument("--store", choices=["SQLite", "PostgreSQL"], action="append",
                        help="only on this store; default: half of the faults on each")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the result goes; default bench/results/TIME.json")
    arguments = parser.parse_args(words)
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    stores = arguments.store or ["SQLite", "PostgreSQL"]
    result = new_result(["faults", *words], {}, store_folder(), pin=False)
    path = arguments.json or default_path(result.at)
    unsound = False
    for number, store in enumerate(stores):
        count = arguments.count // len(stores) + (number < arguments.count % len(stores))
        print(f"{count} faults on {store}, seed {seed}", flush=True)
        try:
            with tempfile.TemporaryDirectory(
                prefix="bench-", dir=store_folder(), ignore_cleanup_errors=True
            ) as folder, ExitStack() as stack:  # fmt: skip
                found = run(store, count, seed, Path(folder), stack)
        except (RunFailed, NotMeasured) as failure:
            print(f"  FAILED: {failure}", flush=True)
            unsound = True
            continue
        result.faults.append(found)
        save(result, path)
        _say(found)
        unsound |= bool(found.lost or found.broken)
    print(f"result: {path}")
    return 1 if unsound else 0


def _say(found: FaultsRun) -> None:
    print(f"{found.store}: promised {found.promised:,} = received {found.received:,}, lost {found.lost}")
    print(f"  {len(found.epochs)} promotions: {' '.join(map(str, found.epochs))}")
    print(f"  the epoch in the store was read {found.epochs_seen:,} times")
    for text in found.broken:
        print(f"  BROKEN: {text}")
    for text in found.left_out:
        print(f"  left out: {text}")
