"""`posthouse store`: check, back up, restore or purge the store of the configuration."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import click

from posthouse.cli.running import NotDone, ask_relay, configured, control_socket, is_postgres, store_option
from posthouse.config import Config
from posthouse.identity import InvalidIdentity, address_digest, canonical_address
from posthouse.store.opening import open_store

PURGED_A_BATCH = 10_000


def _path(config: Config) -> Path:
    path = config.sqlite_path
    if is_postgres(config):
        raise NotDone(
            "a store at postgresql:// is backed up and restored with the engine's own means, such as pg_dump"
        )
    if path is None:
        raise NotDone(f"the store {config.store.url} is not in a file; this command needs sqlite:///")
    return path.resolve()


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], object]]:
    """A bar on standard error, where somebody sees it; told how much is done, of how much."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


@click.group()
def command() -> None:
    """Check, back up, restore or purge a store."""


@command.command()
@store_option
def check(file: Path | None, url: str | None) -> int:
    """Read the whole store and say whether it is sound. Ends with 1 if not. The relay may be running."""
    config = configured(file, url)
    place, report = _check_postgres(config) if is_postgres(config) else _check_sqlite(_path(config))
    click.echo(f"store       {place}")
    click.echo(f"relay       {report.relay_id}, epoch {report.epoch}, schema {report.schema}")
    click.echo(f"messages    {report.messages} ({report.bytes} bytes) in {report.mailboxes} mailboxes")
    click.echo(f"marks       {report.marks}")
    for problem in report.problems:
        click.echo(f"problem     {problem}")
    click.echo(f"result      {'sound' if not report.problems else 'NOT SOUND'}")
    return 1 if report.problems else 0


class _Report(Protocol):
    """What the checks of all engines find."""

    schema: int
    relay_id: str
    epoch: int
    messages: int
    bytes: int
    mailboxes: int
    marks: int
    problems: list[str]


def _check_sqlite(path: Path) -> tuple[str, _Report]:
    import apsw

    from posthouse.store.sqlite.checks import check as look
    from posthouse.store.sqlite.connection import How, cause, open_to_read
    from posthouse.store.sqlite.schema import SCHEMA

    connection = open_to_read(path, How(SCHEMA))
    try:
        with _bar("checking") as show:
            return str(path), look(connection, show)
    except apsw.Error as error:
        raise NotDone(f"{path}: {cause(error)}") from error
    finally:
        connection.close(force=True)


def _check_postgres(config: Config) -> tuple[str, _Report]:
    store = open_store(config.store.url)
    from posthouse.store.postgres import PostgresStore
    from posthouse.store.postgres.checks import check as look

    assert isinstance(store, PostgresStore)
    return str(store.address), look(store.address)


@command.command()
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DESTINATION if it exists.")
@store_option
def backup(destination: Path, force: bool, file: Path | None, url: str | None) -> None:
    """Copy the store to the file DESTINATION and check the copy. The relay may be running."""
    from posthouse.store.sqlite.copies import back_up

    path = _path(configured(file, url))
    with _bar("copying") as show:
        report = back_up(path, destination.absolute(), force, show)
    click.echo(f"{report.messages} messages ({report.bytes} bytes) in {destination}")


@command.command()
@click.argument("source", type=click.Path(path_type=Path))
@store_option
def restore(source: Path, file: Path | None, url: str | None) -> None:
    """Put the backup SOURCE in the store's place. No relay may be running.

    Messages that came after the backup are gone, and those that were delivered after it are offered again: readers
    know them by their ids. The file that was there before is kept beside the new one.
    """
    from posthouse.store.sqlite.copies import restore as put_back

    path = _path(configured(file, url))
    with _bar("copying") as show:
        restored = put_back(source.absolute(), path, show)
    report = restored.report
    click.echo(f"{report.messages} messages ({report.bytes} bytes) in {path}, epoch {restored.epoch}")
    if restored.before is not None:
        click.echo(f"the store before is now {restored.before}")


@command.command()
@click.argument("address")
@store_option
def purge(address: str, file: Path | None, url: str | None) -> None:
    """Delete all messages that wait for ADDRESS, through the running relay if there is one."""
    try:
        canonical = canonical_address(address)
    except InvalidIdentity as error:
        raise NotDone(f"{address!r} is not an address: {error.what}") from None
    config = configured(file, url)
    socket = control_socket(config)
    if socket is None:
        count = _purge_here(config, b"a" + address_digest(canonical))
    else:
        count = ask_relay(socket, {"command": "purge", "address": canonical})["purged"]
    click.echo(f"{count} messages deleted")


def _purge_here(config: Config, key: bytes) -> int:
    """Be the active process for as long as it takes. Returns the number of messages deleted."""
    if is_postgres(config):
        _be_alone(config)
        return _purge_as_active(config, key)
    from posthouse.store.locks import LeaseHolder, take_lease

    path = _path(config)
    if not path.exists():
        raise NotDone(f"there is no store {path}")
    lease = take_lease(path, LeaseHolder(os.getpid(), time.time()))
    if lease is None:
        raise NotDone("a relay has just started; try again")
    try:
        return _purge_as_active(config, key)
    finally:
        lease.release()


def _be_alone(config: Config) -> None:
    """Raise NotDone if a relay is active on the engine: a purge beside it would end its promotion."""
    store = open_store(config.store.url)
    from posthouse.store.postgres import PostgresStore
    from posthouse.store.postgres.checks import has_active_writer

    assert isinstance(store, PostgresStore)
    if has_active_writer(store.address):
        raise NotDone(
            f"a relay is active on {store.address}; run this beside it with server.control_socket set, or stop it"
        )


def _purge_as_active(config: Config, key: bytes) -> int:
    from posthouse.store.interface import Batch, Committed

    store = open_store(config.store.url, config.store.busy_timeout_ms)
    writer = store.open_writer()
    try:
        reader = store.open_reader()
        found = reader.mailboxes([key]).get(key)
        reader.close()
        if found is None:
            return 0
        seen = writer.fence()
        recovered = writer.promote(seen, seen.epoch + 1, secrets.token_bytes(16))
        if recovered is None:
            raise NotDone("a relay has just started; try again")
        count = number = 0
        left = found[1].count
        while left:
            number += 1
            batch = Batch(
                number, recovered.clock_ms, purges=[found[0]], expire_limit=min(PURGED_A_BATCH, left)
            )
            outcome = writer.commit(batch, recovered.fence)
            if not isinstance(outcome, Committed):
                raise NotDone(f"the store did not take it ({outcome.value}); {count} messages were deleted")
            count += sum(gone.mailbox == found[0] for gone in outcome.gone)
            left = outcome.tallies[found[0]].count
            writer.tidy()
        return count
    finally:
        writer.close()
