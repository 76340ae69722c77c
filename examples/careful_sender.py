"""A sender that never loses a message: what the relay does not take goes another way. Each line is a message.

python examples/careful_sender.py ADDRESS [ws://127.0.0.1:8080] < lines
"""

import asyncio
import sys
from pathlib import Path

from posthouse import Client, PosthouseClientError, State

OUTBOX = Path("outbox")


def another_way(ciphertext: bytes, why: PosthouseClientError) -> None:
    """Stands in for whatever else an app can do, such as publishing to the network itself."""
    OUTBOX.mkdir(exist_ok=True)
    number = len(list(OUTBOX.iterdir()))
    (OUTBOX / f"{number}.message").write_bytes(ciphertext)
    print(f"not with the relay ({why}): kept in {OUTBOX}/{number}.message")


def tell(state: State, detail: str) -> None:
    """Called with every change, so that an app can show it."""
    print(f"[{state}] {detail}", file=sys.stderr)


async def main(address: str, relay: str = "ws://127.0.0.1:8080") -> None:
    """Send all lines, each for at most three seconds."""
    lines = [(address, line.encode()) for line in sys.stdin.read().splitlines()]
    async with Client(relay, timeout_s=3, on_state=tell) as client:
        outcomes = client.send_many(lines)
        for _, ciphertext in lines:
            outcome = await anext(outcomes)
            if not isinstance(outcome, PosthouseClientError):
                print(f"{outcome.status} {outcome.id}")
            elif outcome.fallback:
                another_way(ciphertext, outcome)
            else:
                print(f"this message can go nowhere: {outcome}")


asyncio.run(main(*sys.argv[1:]))
