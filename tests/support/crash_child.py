"""Lives the story of `store_story` again and again in children, each killed one step later than the one before.

`python crash_child.py FOLDER`: prints a JSON line for each: the step and what was promised before the kill. The
file is left at FOLDER/<step>.db. A program of its own, so that it has one thread when it forks.
"""

import json
import os
import signal
import sys
from pathlib import Path

from posthouse.store.sqlite import SqliteStore
from recording_vfs import Disk, recording
from store_story import live

LONGEST = 5000


def child(path: Path, step: int, pipe: int) -> None:
    """Do everything up to the step and be killed just before it."""
    left = step

    def on_step(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with recording(Disk(on_step)) as vfs:
        live(SqliteStore(path, vfs=vfs), lambda number: os.write(pipe, b"%d\n" % number))


def main(folder: Path) -> None:
    """All steps, until one child comes to its end."""
    for step in range(1, LONGEST):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(folder / f"{step}.db", step, writing)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as promises:
            promised = [int(line) for line in promises]
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status != 0:
            sys.exit("a child failed")
        print(json.dumps({"step": step, "promised": promised, "killed": killed}), flush=True)
        if not killed:
            return
    sys.exit("no child came to its end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
