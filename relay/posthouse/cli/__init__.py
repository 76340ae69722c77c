"""The command line: `posthouse COMMAND`, one file a command, imported only when it is used.

A command is `cli/<name>.py` with a click command named `command`. Errors of the project end with their one line on
standard error and exit code 1, wrong usage with exit code 2; neither shows a traceback.
"""

import importlib
import os
import sys
from typing import Any

import click

import posthouse
from posthouse.errors import PosthouseError

COMMANDS = {
    "serve": "Run the relay.",
    "demo": "Show a relay at work on this machine.",
    "send": "Send messages.",
    "listen": "Receive messages, one JSON line each.",
    "key": "Make a key, or show its addresses.",
    "config": "Check, show or explain the configuration.",
    "status": "Show what a running relay is doing.",
    "promote": "Have another member be the active one.",
    "store": "Check, back up, restore or purge a store.",
}
"""Each command with its line in the overview: known here so that the overview imports none of them."""


class LazyGroup(click.Group):
    """A group whose commands are modules, imported when one is run or asks for its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"posthouse.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without importing what it lists."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(posthouse.__version__, prog_name="posthouse")
def group() -> None:
    """Keeps messages for devices that are offline, and hands them over at once to those that are online."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process. `arguments` are the process's own unless given."""
    try:
        status: Any = group.main(args=arguments, prog_name="posthouse", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone: what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except PosthouseError as error:
        click.echo(f"posthouse: {error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
