"""`posthouse promote`: have another member be the active one."""

from pathlib import Path

import click

from posthouse.cli.running import NotDone, ask_relay, configured, control_socket, store_option


@click.command(name="promote")
@click.argument("member", default="")
@store_option
def command(member: str, file: Path | None, url: str | None) -> None:
    """Hand over to MEMBER, by its id or its host's name, or to any that is ready. No client is disconnected."""
    socket = control_socket(configured(file, url))
    if socket is None:
        raise NotDone("no relay is running on this store")
    handover = ask_relay(socket, {"command": "promote", "member": member})["handover"]
    gap = f", {handover['gap_ms']} ms without an active member" if handover["gap_ms"] is not None else ""
    click.echo(f"{handover['to']} is active, epoch {handover['epoch']}{gap}")
