"""`posthouse demo`: three members, a sender and a reader on this machine, and the proof that every promise is kept."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from posthouse.cli.demo_books import Books, ProofFailed, Times
from posthouse.cli.demo_changes import Changes
from posthouse.cli.demo_clients import OneByOne, Reader, Sender, StreamReport
from posthouse.cli.demo_members import DemoMembers

if TYPE_CHECKING:
    from posthouse.cli.demo_picture import Picture

_LIVE_MESSAGES = 500
_OFFLINE_MESSAGES = 500
_STREAM_PER_SECOND = 1000
_RECEIVE_S = 15.0
"""How long what was promised may be under way to the reader at the end."""
_LOOK_S = 0.01
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@click.command(name="demo")
def command() -> None:
    """Show a relay at work: delivery in milliseconds, messages that wait, and a kill -9 that loses nothing.

    Starts three members of its own on free ports, with their files in a temporary folder, and removes it all.
    Ends with 0 only if every promised message was received, and no connection ended that should have stayed.
    """
    from rich.console import Console

    from posthouse.cli.demo_picture import Picture

    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="posthouse-demo-") as folder:
        members = DemoMembers(Path(folder))
        books = Books()
        try:
            with Picture(console, members, books) as picture:
                asyncio.run(_Demonstration(picture, members, books).run())
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        finally:
            members.close()


class _Demonstration:
    """The story, told while it happens."""

    def __init__(self, picture: Picture, members: DemoMembers, books: Books) -> None:
        self._picture = picture
        self._members = members
        self._books = books
        self._say = picture.say

    async def run(self) -> None:
        """All scenes. Raises ProofFailed, or why a scene could not be played."""
        task = asyncio.current_task()
        assert task is not None
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        watching = asyncio.create_task(self._members.watch(self._picture.draw))
        try:
            await self._play()
        finally:
            watching.cancel()

    async def _play(self) -> None:
        await self._started()
        active = self._members.active
        assert active is not None
        # Sender and reader are at different members, neither at the active one, and each has another place to go first.
        spare, there, here = (
            active.url,
            *(member.url for member in self._members.all if member is not active),
        )
        reader = Reader([there, here, spare], self._books)
        sender = Sender([here, spare, there], reader.address, self._books)
        async with sender.client:
            await sender.client.connected()
            await self._live(sender, reader)
            await self._offline(sender)
            async with reader.online() as waiting:
                await self._back(waiting)
                report = await self._changes(sender, reader)
                await self._received()
        await self._stopped()
        self._proof(report)

    async def _started(self) -> None:
        members = self._members
        await members.start()
        active = members.active
        assert active is not None
        self._say("Three members are up, on one SQLite file that is synced before any promise.")
        numbers = ", ".join(f"{member.name} is process {member.pid}" for member in members.all)
        self._say(f"{active.name} is active, the others stand by ({numbers}).", indent=True)

    async def _live(self, sender: Sender, reader: Reader) -> None:
        async with reader.online():
            report = await sender.one_by_one(_LIVE_MESSAGES)
            at = [self._members.at(client.whereabouts.url).name for client in (sender, reader)]
        self._say(f"Sender at {at[0]}, reader at {at[1]}: {_LIVE_MESSAGES} messages, one after another.")
        self._times("in the reader's hands after", report.handed_over)
        self._times(f"the sender hears {_words(report)} after", report.answered)

    async def _offline(self, sender: Sender) -> None:
        report = await sender.one_by_one(_OFFLINE_MESSAGES)
        self._say(f"Reader offline: {_OFFLINE_MESSAGES} messages, one after another.")
        self._times(f"the sender hears {_words(report)} after", report.answered)

    async def _back(self, waiting: int) -> None:
        began = perf_counter()
        await self._received()
        took_s = perf_counter() - began
        self._say(
            f"Reader back: {waiting} messages had waited, and are handed over in {took_s * 1000:.0f} ms."
        )

    async def _changes(self, sender: Sender, reader: Reader) -> StreamReport:
        self._say(
            f"Now a stream of {_STREAM_PER_SECOND} messages a second, and one active member after another."
        )
        self._say("What a client notices is its longest time without a promise, or a message:", indent=True)
        end = asyncio.Event()
        stream = asyncio.create_task(sender.stream(_STREAM_PER_SECOND, end))
        changes = asyncio.create_task(Changes(self._members, sender, reader, self._picture.change).run())
        try:
            await asyncio.wait([stream, changes], return_when=asyncio.FIRST_COMPLETED)
            if stream.done():
                await stream  # a message was refused: this says why
            await changes
            end.set()
            return await stream
        finally:
            for task in (changes, stream):
                task.cancel()
            await asyncio.wait([changes, stream])

    async def _received(self) -> None:
        """Wait until the reader has all that was promised. That it never does is for the proof to say."""
        deadline = perf_counter() + _RECEIVE_S
        while self._is_under_way() and perf_counter() < deadline:  # noqa: ASYNC110 - books have no events
            await asyncio.sleep(_LOOK_S)

    def _is_under_way(self) -> bool:
        return len(self._books.received) < len(self._books.promised)

    async def _stopped(self) -> None:
        took_s = [await member.stop() for member in self._members.all]
        self._say(f"The members were told to stop, each did within {max(took_s) * 1000:.0f} ms.")

    def _proof(self, report: StreamReport) -> None:
        books, say = self._books, self._picture.print
        self._picture.stop()
        say()
        self._picture.gaps()
        say()
        good = "green" if not books.lost and not books.damaged else "red"
        say(f"  sent again after a change, known already {report.repeats:>7}")
        say(f"  promised by the relay                    {len(books.promised):>7}")
        say(f"  received by the reader                   {len(books.received):>7}")
        say(f"  [bold {good}]lost                                     {books.lost:>7}[/]")
        say(f"  [bold {good}]damaged or twice                         {books.damaged:>7}[/]")
        say()
        books.check()
        if len(books.received) != len(books.promised):
            raise ProofFailed("the reader has messages that were never promised")
        count = len(self._picture.changes)
        say(
            f"Every promise was kept, through {count} changes of the active. ({self._picture.elapsed_s:.0f} s)"
        )

    def _times(self, what: str, times: Times) -> None:
        self._say(
            f"{what} [bold]{times.median_ms:.2f} ms[/] (median), {times.p99_ms:.2f} ms (99 %).", indent=True
        )


def _words(report: OneByOne) -> str:
    """What the relay answered; how often, where it was not always the same."""
    counted = report.statuses.most_common()
    if len(counted) == 1:
        return f"[green]{counted[0][0]}[/]"
    return " or ".join(f"[green]{status}[/] ({count}×)" for status, count in counted)
