"""What the demonstration shows: lines as things happen and, on a terminal, a live picture below them."""

from __future__ import annotations

import statistics
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from posthouse.cli.demo_books import Books
from posthouse.cli.demo_changes import Change, Kind
from posthouse.cli.demo_members import DemoMembers

_REDRAW_S = 0.1
_LOOKS = {"active": "bold green", "standby": "cyan"}


class Picture:
    """Where everything is said. Without a terminal there are only the lines."""

    def __init__(self, console: Console, members: DemoMembers, books: Books) -> None:
        self.changes: list[Change] = []
        self._console = console
        self._members = members
        self._books = books
        self._began = perf_counter()
        self._drawn_at = 0.0
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the live picture away; what is said after it stays the last."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return perf_counter() - self._began

    # --- lines

    def say(self, text: str, indent: bool = False) -> None:
        """One line, in rich's markup; ``indent`` for more about the one before."""
        at = "" if indent else f"{self.elapsed_s:5.1f} s"
        self.print(f"[dim]{at:>7}[/]  {text}")

    def print(self, text: str = "") -> None:
        """One line without a time."""
        self._console.print(text)

    def change(self, change: Change) -> None:
        """One change of the active, and what the client saw that had to move."""
        self.changes.append(change)
        was, now = change.was.name, change.now.name
        what = {
            Kind.HAND_OVER: f"hand-over {was} → {now}",
            Kind.STOP_OWN: f"[yellow]SIGTERM {change.was_pid}[/] {was} → {now}",
        }.get(change.kind, f"[bold red]kill -9 {change.was_pid}[/] {was} → {now}")
        seen = f"notices [bold]{change.gap_s * 1000:.0f} ms[/]"
        if change.moved_from is None:
            told = f"the {change.told_by} at {change.at.name} {seen}, its socket stays open"
        else:
            told = f"the {change.told_by} {seen} and goes from {change.moved_from.name} to {change.at.name}"
        self.say(f"{what}, epoch {change.epoch}: {told}.")
        if change.moved_from is not None:
            self.say(
                f"(it saw: {change.reason}; connected again after {change.away_s * 1000:.0f} ms)", indent=True
            )

    def gaps(self) -> None:
        """Median and longest gap of each kind, as a table."""
        self.print("  gap as a client sees it               times   median  longest")
        for kind, gaps in self._gaps().items():
            median, longest = statistics.median(gaps), max(gaps)
            self.print(f"  {kind:<36}  {len(gaps):>5}  {median * 1000:>4.0f} ms  {longest * 1000:>4.0f} ms")

    def _gaps(self) -> dict[Kind, list[float]]:
        found = {kind: [change.gap_s for change in self.changes if change.kind is kind] for kind in Kind}
        return {kind: gaps for kind, gaps in found.items() if gaps}

    # --- the live picture

    def draw(self) -> None:
        """Show what is so now. Called as often as one likes."""
        if self._live is not None and perf_counter() - self._drawn_at >= _REDRAW_S:
            self._drawn_at = perf_counter()
            self._live.update(self._drawing(), refresh=True)

    def _drawing(self) -> Group:
        table = Table("member", "process", "role", "epoch", "clients")
        for member in self._members.all:
            view = self._members.views[member.name]
            pid = str(member.pid) if member.pid else "-"
            if view is None:
                role = "stopping" if member.stopping else "starting" if member.pid else "dead"
                table.add_row(member.name, pid, Text(role, "red"), "", "")
            else:
                look = _LOOKS.get(view.role, "yellow")
                table.add_row(member.name, pid, Text(view.role, look), str(view.epoch), str(view.clients))
        books = self._books
        counts = f"promised {len(books.promised)}   received {len(books.received)}"
        if self.changes:
            counts += f"   changes {len(self.changes)}"
        longest = "   ".join(f"{kind}: {max(gaps) * 1000:.0f} ms" for kind, gaps in self._gaps().items())
        return Group("", table, Text(counts), Text(f"longest gap   {longest}" if longest else "", "dim"))
