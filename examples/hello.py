"""One device sends, another one is asleep, wakes up and reads. Needs a relay: `posthouse serve`, then

python examples/hello.py [ws://127.0.0.1:8080]
"""

import asyncio
import os
import sys

from posthouse import Client, DeviceKey


async def main(relay: str) -> None:
    """Send while the reader is offline, then read."""
    anna, ben = DeviceKey(os.urandom(32)), DeviceKey(os.urandom(32))

    async with Client(relay, anna) as client:
        receipt = await client.send(ben.address, b"hello Ben")  # a real app sends ciphertext
        print(
            f"the relay says {receipt.status!r} after {receipt.took_ms:.1f} ms: Anna's app can be closed now"
        )

    async with Client(relay, ben) as client:
        subscription = await client.subscribe()
        print(f"{subscription.pending.count} message waits for Ben")
        async for message in client.messages(until_caught_up=True):
            print(f"Ben reads {message.ciphertext!r}")
            await message.ack()  # after it is processed: the relay forgets it now


asyncio.run(main(*sys.argv[1:] or ["ws://127.0.0.1:8080"]))
