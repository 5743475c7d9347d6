"""The command line of the Pi: `python -m pi serve|ship|restore|adopt|cert|key|pair|replica|user`."""

from __future__ import annotations

import sys
from typing import Any

import apsw
import click

from changelog.errors import DroverError
from changelog.node.settings import Settings
from changelog.storage import STORAGE, in_words

COMMANDS = ["adopt", "cert", "key", "pair", "replica", "restore", "serve", "ship", "user"]


class Commands(click.Group):
    """A group whose errors of ours are one line on stderr and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name. Only what is called is imported: the shipper, which always runs, has no use for a web server."""
        command: click.Command | None = None
        match cmd_name:
            case "adopt":
                from pi.adopt import adopt as command
            case "cert":
                from pi.certificate_commands import cert as command
            case "key":
                from pi.key_commands import key as command
            case "pair":
                from pi.pairing import pair as command
            case "replica":
                from pi.replicas import replica as command
            case "restore":
                from pi.restore import restore as command
            case "serve":
                from pi.serve import serve as command
            case "ship":
                from pi.ship import ship as command
            case "user":
                from pi.users import user as command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DroverError as exc:
            cause = exc.message
        except apsw.BusyError:
            cause = "the database is locked by another program; try again when that has ended"
        except BrokenPipeError:
            raise  # click knows what it means
        except (*STORAGE, OSError) as exc:
            cause = in_words(exc)
        click.echo(f"error: {cause}", err=True)
        sys.exit(1)


@click.group(cls=Commands)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Drover on the Pi: settings come from .env and the environment."""
    ctx.obj = Settings.load()


if __name__ == "__main__":
    main(prog_name="python -m pi")
