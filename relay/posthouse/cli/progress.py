"""A progress bar on standard error, where somebody sees it and it does not get among the output."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Called with how many more are done, and how much of the total that is."""


@contextmanager
def progress(label: str, total: int | None, output_is_quiet: bool) -> Iterator[Advance]:
    """Show how far ``label`` is (``total`` None: not known how far to go), and take the bar away at the end."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not output_is_quiet):
        yield lambda messages, of_total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[messages]} messages"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, messages=0)
        count = 0

        def advance(messages: int, of_total: int) -> None:
            nonlocal count
            count += messages
            bar.update(task, advance=of_total, messages=count)

        yield advance
