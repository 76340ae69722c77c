"""For commands about a relay that may be running: which one, by the configuration of its store, and how to ask it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import posthouse.config
from posthouse.cli.config import config_option
from posthouse.config import Config
from posthouse.errors import PosthouseError
from posthouse.store.opening import POSTGRES_SCHEMES


class NotDone(PosthouseError):
    """A command cannot be done; the text says why."""


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --config and --store, as `file` and `url`."""
    return click.option("--store", "url", metavar="URL", help="The store, in place of the configuration's.")(
        config_option(function)
    )


def configured(file: Path | None, url: str | None) -> Config:
    """The configuration that these options mean."""
    return posthouse.config.load(file, os.environ, {"store.url": url} if url else {})


def is_postgres(config: Config) -> bool:
    """Whether the store is an engine, not a file."""
    return config.store.url.startswith(POSTGRES_SCHEMES)


def control_socket(config: Config) -> Path | None:
    """Where the running relay takes commands; None if none runs."""
    path = config.sqlite_path
    if path is None:
        if is_postgres(config) and config.control_socket_path is None:
            return None
        if config.control_socket_path is None:
            raise NotDone(
                f"the store {config.store.url} lives in the relay; set server.control_socket to reach it"
            )
        return config.control_socket_path
    from posthouse.store.locks import own_open, read_lease_holder

    holder = read_lease_holder(path.absolute())
    if holder is None:
        lock = own_open(path.absolute())
        if lock is not None:
            lock.release()
            return None
        socket = config.control_socket_path
        if socket is None or not socket.exists():
            raise NotDone(f"a relay without a lease, or a standby alone, has {path} open; stop it first")
        return socket
    if holder.control_socket is None:
        raise NotDone(f"the relay (process {holder.pid}) has no control socket; stop it first")
    return Path(holder.control_socket)


def ask_relay(socket: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A good answer of the relay. Raises NotDone with its words for another, ControlSocketError for none."""
    from posthouse.server.control import ask

    answer = ask(socket, request)
    if not answer.get("ok"):
        raise NotDone(f"the relay says: {answer.get('error')}")
    return answer
