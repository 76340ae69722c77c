"""A process with a peer listener, to be stopped or killed: ``peer_child.py ADDRESS [FOLDER]``, with its files of TLS.

It prints the address that it listens at, and then a line for each link that is established.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from posthouse.link.talk import Me
from posthouse.server.peers import Link, MutualTls, PeerAddress, PeerListener


class Telling:
    def established(self, link: Link) -> None:
        print("linked", flush=True)

    def received(self, frame: object) -> None:
        pass

    def lost(self, why: str) -> None:
        pass


async def main(address: str, folder: str | None = None) -> None:
    security = None
    if folder is not None:
        security = MutualTls(*(Path(folder) / name for name in ("cert.pem", "key.pem", "ca.pem")))
    listener = PeerListener(PeerAddress.parse(address), security, Me("relay", "b", 0), Telling)
    await listener.open()
    print(listener.address, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
