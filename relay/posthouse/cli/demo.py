"""`posthouse demo`: a relay, a sender and a reader on this machine, and the proof that nothing promised is lost."""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from posthouse.cli.demo_relay import DemoRelay
from posthouse.cli.demo_story import Books, OneByOne, Reader, Sender, StreamReport, Times

if TYPE_CHECKING:
    from rich.console import Console

_LIVE_MESSAGES = 500
_OFFLINE_MESSAGES = 500
_STREAM_PER_SECOND = 2000
_STREAM_S = 4.0
"""How long the stream runs before the relay is killed, and again after it is back."""
_START_S = 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@click.command(name="demo")
def command() -> None:
    """Show a relay at work: delivery in milliseconds, messages that wait, and a kill -9 that loses nothing.

    Starts a relay of its own on free ports, with its files in a temporary folder, and removes both.
    Ends with 0 only if every promised message was received.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="posthouse-demo-") as folder:
        relay = DemoRelay(Path(folder))
        try:
            asyncio.run(_Demonstration(console, relay).run())
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        finally:
            relay.close()


class _Demonstration:
    """The story, told while it happens."""

    def __init__(self, console: "Console", relay: DemoRelay) -> None:
        self._console = console
        self._relay = relay
        self._books = Books()
        self._began = perf_counter()

    async def run(self) -> None:
        """All scenes. Raises ProofFailed, or why a scene could not be played."""
        task = asyncio.current_task()
        assert task is not None
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        reader = Reader(self._relay.url, self._books)
        sender = Sender(self._relay.url, reader.address, self._books)
        self._relay.start()
        async with sender.client:
            await self._started(sender)
            await self._live(sender, reader)
            await self._offline(sender)
            await self._crash(sender)
        await self._back(reader)
        stopped_after_s = await self._relay.stop()
        self._say(f"The relay was told to stop, and did within {stopped_after_s * 1000:.0f} ms.")
        self._proof()

    async def _started(self, sender: Sender) -> None:
        connecting = asyncio.create_task(sender.client.connected(_START_S))
        try:
            while not (await asyncio.wait([connecting], timeout=0.1))[0]:
                self._relay.check()
            await connecting
        finally:
            connecting.cancel()
        took_ms = (perf_counter() - self._began) * 1000
        self._say(f"A relay is up after {took_ms:.0f} ms: {self._relay.url}, process {self._relay.pid},")
        self._say("messages in a SQLite file, synced to disk before any promise.", indent=True)

    async def _live(self, sender: Sender, reader: Reader) -> None:
        async with reader.online():
            report = await sender.one_by_one(_LIVE_MESSAGES)
        self._say(f"Reader online: {_LIVE_MESSAGES} messages, one after another.")
        self._times("in the reader's hands after", report.handed_over)
        self._times(f"the sender hears {_words(report)} after", report.answered)

    async def _offline(self, sender: Sender) -> None:
        report = await sender.one_by_one(_OFFLINE_MESSAGES)
        self._say(f"Reader offline: {_OFFLINE_MESSAGES} messages, one after another.")
        self._times(f"the sender hears {_words(report)} after", report.answered)

    async def _crash(self, sender: Sender) -> None:
        end = asyncio.Event()
        stream = asyncio.create_task(sender.stream(_STREAM_PER_SECOND, end))
        try:
            await self._unless(stream, _STREAM_S)
            promised = len(self._books.promised)
            pid = self._relay.pid
            self._relay.kill()
            killed_at = perf_counter()
            self._say(f"A stream of {_STREAM_PER_SECOND} messages a second, and in the middle of it:")
            self._say(
                f"[bold red]kill -9 {pid}[/], with {promised} messages promised and {sender.unanswered} on their way.",
                indent=True,
            )
            self._relay.start()
            await self._unless(stream, _STREAM_S)
            self._relay.check()
            end.set()
            report = await stream
        finally:
            stream.cancel()
        back_ms = (sender.connected_at - killed_at) * 1000
        self._say(f"started again, the sender was connected again after {back_ms:.0f} ms,", indent=True)
        self._stream(report)

    async def _back(self, reader: Reader) -> None:
        count, took_s = await reader.drain()
        self._say(f"Reader back: {count} messages had waited, and are handed over in {took_s:.2f} s", end="")
        self._console.print(f" ({count / took_s:.0f} a second).")

    def _proof(self) -> None:
        books = self._books
        self._console.print()
        good = "green" if not books.lost and not books.damaged else "red"
        self._console.print(f"  promised by the relay    {len(books.promised):>7}")
        self._console.print(f"  received by the reader   {len(books.received):>7}")
        self._console.print(f"  [bold {good}]lost                     {books.lost:>7}[/]")
        self._console.print(f"  [bold {good}]damaged or twice         {books.damaged:>7}[/]")
        self._console.print()
        books.check()
        took_s = perf_counter() - self._began
        self._console.print(f"Every promise was kept, through a kill -9. ({took_s:.0f} s)")

    async def _unless(self, stream: "asyncio.Task[StreamReport]", wait_s: float) -> None:
        """Let the stream run for a while; if it ends by itself, raise why."""
        done, _ = await asyncio.wait([stream], timeout=wait_s)
        if done:
            self._relay.check()
            await stream

    def _stream(self, report: StreamReport) -> None:
        pause_ms = report.longest_pause_s * 1000
        self._say(f"and the longest time without a promise was {pause_ms:.0f} ms;", indent=True)
        self._say(
            f"{report.sent} sent, {report.promised} promised; what had no answer at the kill was sent again,",
            indent=True,
        )
        self._say(f"and {report.repeats} of that the relay had kept already.", indent=True)

    def _times(self, what: str, times: Times) -> None:
        self._say(
            f"{what} [bold]{times.median_ms:.2f} ms[/] (median), {times.p99_ms:.2f} ms (99 %).", indent=True
        )

    def _say(self, text: str, indent: bool = False, end: str = "\n") -> None:
        at = "" if indent else f"{perf_counter() - self._began:5.1f} s"
        self._console.print(f"[dim]{at:>7}[/]  {text}", end=end)


def _words(report: OneByOne) -> str:
    """What the relay answered; how often, where it was not always the same."""
    counted = report.statuses.most_common()
    if len(counted) == 1:
        return f"[green]{counted[0][0]}[/]"
    return " or ".join(f"[green]{status}[/] ({count}×)" for status, count in counted)
