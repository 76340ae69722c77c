"""`posthouse key new|show`: device keys in files, and what they are called."""

import click


@click.group(name="key")
def command() -> None:
    """Make a key, or show its addresses."""


@command.command()
@click.option(
    "--out",
    "file",
    default="posthouse.key",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="Where to write it; an existing file is left alone.",
)
def new(file: str) -> None:
    """Write a new key to a file that only its owner can read, and print its address."""
    from posthouse.client import create_key_file

    click.echo(create_key_file(file).address)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False))
def show(file: str) -> None:
    """Print what a key is called: both forms of its address, and both of its buckets."""
    from posthouse.client import load_key
    from posthouse.identity import buckets_of_address

    key = load_key(file)
    canonical, long_form = key.addresses
    buckets = buckets_of_address(key.address)
    click.echo(f"address    {canonical}")
    click.echo(f"           {long_form}")
    click.echo(f"bucket 16  {buckets.wide}")
    click.echo(f"bucket 14  {buckets.narrow}")
