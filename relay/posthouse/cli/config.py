"""`posthouse config check|show|reference`: what is in force, where it comes from, and what there is to set."""

import os
from pathlib import Path

import click

import posthouse.config

config_option = click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="POSTHOUSE_CONFIG",
    help="Configuration file (TOML).  [env: POSTHOUSE_CONFIG]",
)


@click.group(name="config")
def command() -> None:
    """Check, show or explain the configuration."""


@command.command()
@config_option
def check(file: Path | None) -> None:
    """Check the file and the environment as `serve` would, and end with 1 and one line if it would not start."""
    posthouse.config.load(file, os.environ)
    click.echo("configuration ok")


@command.command()
@config_option
def show(file: Path | None) -> None:
    """Print the configuration in force as TOML, with where each value comes from and without passwords."""
    click.echo(posthouse.config.shown(posthouse.config.resolve(file, os.environ)), nl=False)


@command.command()
@click.option("--format", "form", type=click.Choice(["toml", "markdown"]), default="toml", show_default=True)
def reference(form: str) -> None:
    """Print every setting with its default, its bounds and its reason."""
    click.echo(posthouse.config.reference() if form == "toml" else posthouse.config.markdown(), nl=False)
