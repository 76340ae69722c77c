"""The store ends at every step of its work, by a kill or by the power, or cannot sync: what was promised is there.

A check that cannot fail proves nothing: the same cuts with `synchronous` below FULL must lose promised messages.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import store_story
from posthouse.store.sqlite import SqliteStore, connection, files
from recording_vfs import Disk, recording
from store_samples import mailbox

SUPPORT = Path(store_story.__file__).parent
BOX = mailbox(1)


@pytest.mark.timeout(300)
def test_killed_at_any_step_it_holds_what_was_promised_and_no_half_batch(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SUPPORT / "crash_child.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    kills = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(kills) > 100
    assert kills[-1]["promised"] == [-1, 1, 2, 3, 4, 5, 6, 7, 8]
    for kill in kills:
        assert store_story.verify(tmp_path / f"{kill['step']}.db", kill["promised"]) is None, kill


def _losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Live once; before every step imagine power cuts: how many, and what each of them would have lost."""
    cuts = 0
    losses: list[str] = []
    promised: list[int] = []
    rng = random.Random(7)

    def cut(step: str) -> None:
        nonlocal cuts
        for share in (None, 0.0, 0.5, 0.9):
            cuts += 1
            folder = tmp_path / f"cut-{cuts}"
            folder.mkdir()
            disk.leave(folder, None if share is None else rng, share or 0.0)
            try:
                loss = store_story.verify(folder / "store.db", promised)
            except Exception as error:
                loss = repr(error)
            if loss is not None:
                losses.append(f"cut {cuts} before {step}: {loss}")

    disk = Disk(cut)
    sync_directory = files.sync_directory

    def recorded_sync_directory(directory: Path) -> None:
        if directory == tmp_path:  # and not the copy that is being verified
            cut("directory sync")
            disk.directory_synced()
        sync_directory(directory)

    monkeypatch.setattr(files, "sync_directory", recorded_sync_directory)
    with recording(disk) as vfs:
        store_story.live(SqliteStore(tmp_path / "store.db", vfs=vfs), promised.append)
    return cuts, losses


@pytest.mark.timeout(300)
def test_after_a_power_cut_at_any_step_it_holds_what_was_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts, losses = _losses(tmp_path, monkeypatch)
    assert cuts > 400
    assert losses == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("weaker", [("off", 0), ("normal", 1)])
def test_a_weaker_sync_would_lose_promised_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weaker: tuple[str, int]
) -> None:
    monkeypatch.setattr(connection, "SYNCHRONOUS", weaker)
    _, losses = _losses(tmp_path, monkeypatch)
    assert any("was promised" in loss for loss in losses)
