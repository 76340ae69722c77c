"""`posthouse promote`: have another member be the active one."""

from pathlib import Path

import click

from posthouse.cli.running import NotDone, ask_relay, configured, control_socket, is_postgres, store_option


@click.command(name="promote")
@click.argument("member", default="")
@store_option
def command(member: str, file: Path | None, url: str | None) -> None:
    """Hand over to MEMBER, by its id or by its name without the letters of its start, or to any that is ready.

    No client is disconnected.
    """
    config = configured(file, url)
    socket = control_socket(config)
    if socket is None:
        where = "; its members are asked by their server.control_socket" if is_postgres(config) else ""
        raise NotDone(f"no relay is known to run on this store{where}")
    handover = ask_relay(socket, {"command": "promote", "member": member})["handover"]
    gap = f", {handover['gap_ms']} ms without an active member" if handover["gap_ms"] is not None else ""
    click.echo(f"{handover['to']} is active, epoch {handover['epoch']}{gap}")
