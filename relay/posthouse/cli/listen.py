"""`posthouse listen`: print messages as JSON lines, and acknowledge each once its line is out of this process."""

import asyncio
import base64
import json
import math
from dataclasses import dataclass

import click

from posthouse.cli.connecting import audience_option, give_up_option, key_option, relay_option, write_out
from posthouse.cli.progress import progress
from posthouse.client import Client, IncomingMessage, Subscription, load_key
from posthouse.errors import PosthouseError

_BATCH = 256


class TooFewMessages(PosthouseError, TimeoutError):
    """The time is over, and what was to happen in it has not happened."""

    def __init__(self, received: int, wanted: int | None, timeout_s: float) -> None:
        super().__init__(received, wanted, timeout_s)
        self.received = received
        self.wanted = wanted
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        wanted = "not caught up" if self.wanted is None else f"{self.wanted} wanted"
        return f"{self.received} messages within {self.timeout_s:g} s, {wanted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to read, and when to stop."""

    buckets: tuple[str, ...]
    reader: str | None
    count: int | None
    until_caught_up: bool
    timeout_s: float | None


@click.command(name="listen")
@relay_option
@key_option("Read what is for this key's address.")
@audience_option
@click.option("--bucket", "buckets", multiple=True, metavar="BUCKET", help="Read this bucket; repeatable.")
@click.option("--reader", metavar="NAME", help="Secret name of an anonymous reader, 16 characters or more.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many messages.")
@click.option("--until-caught-up", is_flag=True, help="Stop when nothing is left that waits.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long; a failure if --count or --until-caught-up has not been reached.",
)
@give_up_option
def command(
    urls: tuple[str, ...],
    key_file: str | None,
    audience: str | None,
    buckets: tuple[str, ...],
    reader: str | None,
    count: int | None,
    until_caught_up: bool,
    timeout_s: float | None,
    give_up_after_s: float,
) -> None:
    """Print messages as they come, one JSON line each, until Ctrl-C.

    With --key what is for its address, with --bucket what is in buckets. A message is acknowledged once its
    line has been written, so that the relay keeps what was not.
    """
    if key_file is None and not buckets:
        raise click.UsageError("give --key to read an address, or --bucket and --reader to read a bucket")
    if key_file is None and reader is None:
        raise click.UsageError("reading a bucket without --key needs --reader")
    options = Options(
        buckets=buckets, reader=reader, count=count, until_caught_up=until_caught_up, timeout_s=timeout_s
    )
    key = load_key(key_file) if key_file is not None else None
    asyncio.run(
        _listen(Client(urls, key, audience=audience, give_up_after_s=give_up_after_s or None), options)
    )


async def _listen(client: Client, options: Options) -> None:
    reading = _Reading(options)
    try:
        async with asyncio.timeout(options.timeout_s):
            async with client:
                await reading.run(client)
    except TimeoutError as error:
        if isinstance(error, PosthouseError):
            raise
        assert options.timeout_s is not None
        if options.count is not None or options.until_caught_up:
            raise TooFewMessages(reading.received, options.count, options.timeout_s) from None


class _Reading:
    """One run of the command."""

    def __init__(self, options: Options) -> None:
        self.received = 0
        self._options = options

    async def run(self, client: Client) -> None:
        options = self._options
        subscription = await self._subscribe(client)
        waiting = subscription.pending.count
        batches = client.batches(_BATCH, until_caught_up=options.until_caught_up)
        with progress("receiving", min(waiting, options.count or waiting) or None, False) as advance:
            async for batch in batches:
                wanted = batch if options.count is None else batch[: options.count - self.received]
                await write_out("".join(_line(message) for message in wanted))
                for message in wanted:
                    await message.ack()
                self.received += len(wanted)
                advance(len(wanted), len(wanted))
                if self.received == options.count:
                    return

    async def _subscribe(self, client: Client) -> Subscription:
        options = self._options
        # How long to wait for the relay is for --give-up-after and --timeout to say.
        if not options.buckets:
            return await client.subscribe(timeout_s=math.inf)
        return await client.subscribe(buckets=options.buckets, reader=options.reader, timeout_s=math.inf)


def _line(message: IncomingMessage) -> str:
    fields: dict[str, object] = {"id": message.id, "seq": message.seq}
    if message.recipient is not None:
        fields["recipient"] = message.recipient
    if message.bucket is not None:
        fields["bucket"] = message.bucket
    fields |= {
        "received_at": message.received_at_ms,
        "deliveries": message.deliveries,
        "ciphertext": base64.b64encode(message.ciphertext).decode(),
    }
    try:
        fields["text"] = message.ciphertext.decode()
    except UnicodeDecodeError:
        pass
    return json.dumps(fields) + "\n"
