"""`posthouse send`: hand messages to a relay, and say what it promised for each."""

import asyncio
import json
import os
import stat
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import click

from posthouse.cli.connecting import (
    CHUNK_BYTES,
    STDIN,
    audience_option,
    beside_the_loop,
    give_up_option,
    key_option,
    relay_option,
)
from posthouse.cli.progress import progress
from posthouse.client import (
    Client,
    ConnectionFailed,
    PosthouseClientError,
    Receipt,
    Rejected,
    Undeliverable,
    load_key,
)
from posthouse.errors import PosthouseError
from posthouse.wire.messages import Mode


class NotAllAccepted(PosthouseError):
    """Some of many messages are not with the relay."""

    def __init__(self, failed: int, total: int) -> None:
        super().__init__(failed, total)
        self.failed = failed
        self.total = total

    def __str__(self) -> str:
        return f"{self.failed} of {self.total} messages were not accepted"


class UnreadableInput(PosthouseError):
    """The file to send cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to send, and how."""

    to: str
    mode: Mode
    ttl_s: int | None
    as_json: bool
    quiet: bool


@click.command(name="send")
@click.option("--to", required=True, metavar="ADDRESS", help="Who the messages are for.")
@relay_option
@key_option("Send under this key; without one, anonymously.")
@audience_option
@click.option("--mode", type=click.Choice(["store", "live", "network"]), default="store", show_default=True)
@click.option("--ttl", "ttl_s", type=click.IntRange(min=1), metavar="SECONDS", help="How long it may wait.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a result may take, connecting included.",
)
@give_up_option
@click.option("--lines", is_flag=True, help="Each line of the input is a message.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON lines.")
@click.option("--quiet", is_flag=True, help="Print no line for messages that are accepted.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
def command(
    to: str,
    urls: tuple[str, ...],
    key_file: str | None,
    audience: str | None,
    mode: Mode,
    ttl_s: int | None,
    timeout_s: float,
    give_up_after_s: float,
    lines: bool,
    as_json: bool,
    quiet: bool,
    file: str,
) -> None:
    """Send FILE, or standard input, as one message; with --lines, as one message a line.

    Prints "ID STATUS MILLISECONDS" for each. Ends with 1 if any was not accepted.
    """
    options = Options(to=to, mode=mode, ttl_s=ttl_s, as_json=as_json, quiet=quiet)
    key = load_key(key_file) if key_file is not None else None
    client = Client(
        urls, key, audience=audience, give_up_after_s=give_up_after_s or None, timeout_s=timeout_s
    )
    try:
        descriptor = STDIN if file == "-" else os.open(file, os.O_RDONLY)
    except OSError as error:
        raise UnreadableInput(f"{file}: {error.strerror}") from None
    asyncio.run(_send_lines(client, descriptor, options) if lines else _send_one(client, descriptor, options))


async def _send_one(client: Client, descriptor: int, options: Options) -> None:
    data = b"".join([chunk async for chunk in _chunks(descriptor)])
    async with client:
        receipt = await client.send(options.to, data, mode=options.mode, ttl_s=options.ttl_s)
    if not options.quiet:
        click.echo(_line(receipt, options.as_json))


async def _send_lines(client: Client, descriptor: int, options: Options) -> None:
    status = os.fstat(descriptor)
    total_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
    sizes: deque[int] = deque()

    async def messages() -> AsyncIterator[tuple[str, bytes]]:
        async for line in _lines(descriptor):
            sizes.append(len(line) + 1)
            yield options.to, line

    total = failed = 0
    with progress("sending", total_bytes, options.quiet) as advance:
        async with client:
            async for outcome in client.send_many(messages(), mode=options.mode, ttl_s=options.ttl_s):
                total += 1
                advance(1, sizes.popleft())
                if isinstance(outcome, ConnectionFailed):
                    raise outcome
                if isinstance(outcome, PosthouseClientError):
                    failed += 1
                    _say_failure(total, outcome, options)
                elif not options.quiet:
                    click.echo(_line(outcome, options.as_json))
    if failed:
        raise NotAllAccepted(failed, total)


def _say_failure(number: int, error: PosthouseClientError, options: Options) -> None:
    click.echo(f"posthouse: message {number}: {error}", err=True)
    if options.as_json:
        fields: dict[str, object] = {
            "number": number,
            "status": _failed_status(error),
            "fallback": error.fallback,
        }
        if isinstance(error, Rejected):
            fields |= {"id": error.id, "code": error.code, "retry_after_ms": error.retry_after_ms}
        click.echo(json.dumps(fields))


def _failed_status(error: PosthouseClientError) -> str:
    if isinstance(error, Rejected):
        return "rejected"
    return "undeliverable" if isinstance(error, Undeliverable) else "no-result"


def _line(receipt: Receipt, as_json: bool) -> str:
    if as_json:
        fields = {
            "id": receipt.id,
            "status": receipt.status,
            "state": receipt.state,
            "took_ms": round(receipt.took_ms, 3),
        }
        return json.dumps(fields)
    status = f"{receipt.status} ({receipt.state})" if receipt.duplicate else receipt.status
    return f"{receipt.id} {status} {receipt.took_ms:.1f} ms"


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    while chunk := await beside_the_loop(lambda: os.read(descriptor, CHUNK_BYTES)):
        yield chunk


async def _lines(descriptor: int) -> AsyncIterator[bytes]:
    """Lines without their ends, empty ones left out."""
    rest = b""
    async for chunk in _chunks(descriptor):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line := line.removesuffix(b"\r"):
                yield line
    if rest:
        yield rest
