"""Run many seeds of the simulation: ``simulate.py [--runs N] [--start N]``, or one with its story: ``--seed N``.

Ends with 1 and the story of each seed that failed (the first ten).
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from sim_run import RunFailed, run

REPORT_EVERY_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate members that elect the one active.")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one alone, with its story")
    arguments = parser.parse_args()
    first = arguments.start if arguments.seed is None else arguments.seed
    runs = arguments.runs if arguments.seed is None else 1
    happened: Counter[str] = Counter()
    failed = 0
    began = reported = time.monotonic()
    for seed in range(first, first + runs):
        try:
            happened.update(run(seed))
        except RunFailed as failure:
            failed += 1
            print(failure, flush=True)
            print(f"again: {sys.argv[0]} --seed {seed}", flush=True)
            if failed == 10:
                break
        now = time.monotonic()
        if now - reported > REPORT_EVERY_S:
            reported = now
            print(f"{seed - first + 1} runs, {failed} failed", flush=True)
    took_s = time.monotonic() - began
    facts = ", ".join(f"{count} {what}" for what, count in happened.items())
    print(
        f"seeds {first} to {seed}: {failed} failed, {facts}; {(seed - first + 1) / took_s:.0f} runs a second"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
