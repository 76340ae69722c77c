"""What the commands that use a relay share: their options, and blocking calls beside the event loop."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import click

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

STDIN = 0
STDOUT = 1
CHUNK_BYTES = 64 * 1024

relay_option = click.option(
    "--relay",
    "urls",
    multiple=True,
    default=["ws://127.0.0.1:8080"],
    show_default=True,
    metavar="URL",
    help="Address of the relay; several for one that has several.",
)
audience_option = click.option(
    "--audience",
    metavar="HOST[:PORT]",
    help="What the relay calls itself, where that is not the host and port of --relay.",
)
give_up_option = click.option(
    "--give-up-after",
    "give_up_after_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Fail after so long without a connection; 0: try for ever.",
)


def key_option(text: str) -> Callable[[_F], _F]:
    """`--key FILE` with a help text of the command's own."""
    return click.option("--key", "key_file", type=click.Path(dir_okay=False), metavar="FILE", help=text)


async def beside_the_loop(function: Callable[[], _T]) -> _T:
    """Run a blocking call in a thread that ends with the process.

    Unlike the loop's own threads it is not waited for: a read of a silent terminal must not hold up Ctrl-C.
    The call should use file descriptors, not buffered files: their locks make trouble at exit.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:
            return  # the loop has ended meanwhile

    threading.Thread(target=run, daemon=True).start()
    return await done


async def write_out(text: str) -> None:
    """Write to standard output, all of it and at once. Raises BrokenPipeError when nobody reads any more."""
    data = text.encode()

    def write() -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(STDOUT, rest) :]

    await beside_the_loop(write)
