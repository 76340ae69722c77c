"""`posthouse serve`: run the relay until it is told to stop.

Every setting that has a flag is an option here, with the setting's own words as its help.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import posthouse.config
from posthouse import logs
from posthouse.cli.config import config_option
from posthouse.config import FIELDS, Config, Field

_BY_PARAMETER = {field.key.replace(".", "__"): field for field in FIELDS.values() if field.setting.flag}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, field in reversed(_BY_PARAMETER.items()):
        function = click.option(
            field.setting.flag,
            name,
            type=click.Choice(field.choices) if field.choices else str,
            metavar=None if field.choices else _metavar(field),
            multiple=field.is_list,
            help=f"{field.setting.about}  [env: {field.variable}; default: {_default(field)}]",
        )(function)
    return function


def _metavar(field: Field) -> str:
    if field.is_list:
        return "HOST[:PORT]"
    if field.name.endswith("listen"):
        return "HOST:PORT"
    return "URL" if field.name == "url" else "FILE"


def _default(field: Field) -> str:
    return str(field.default or field.setting.empty or "none")


@click.command()
@config_option
@_options
def command(file: Path | None, **flags: Any) -> int:
    """Run the relay until SIGTERM or SIGINT; a second one hurries it. SIGHUP reads certificate and log level again."""
    # Flags that were not given leave the file and the environment alone.
    overrides = {
        _BY_PARAMETER[name].key: list(value) if isinstance(value, tuple) else value
        for name, value in flags.items()
        if value not in (None, ())
    }

    def read() -> Config:
        return posthouse.config.load(file, os.environ, overrides)

    config = read()
    logs.configure(config.log.level, config.log.format)
    # Late, so that a bad configuration is refused before all of the server is imported.
    from posthouse.server.process import run

    return run(config, read)
