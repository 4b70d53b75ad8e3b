"""The `shelfrank` command: finds its subcommands by entry point and turns errors into sentences."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version

import click

from indexer.errors import ShelfrankError, UsageError

GROUP = "shelfrank.commands"


class _Commands(click.Group):
    """Loads a subcommand only when it is asked for, so that `shelfrank search` never imports pandas."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({point.name for point in entry_points(group=GROUP)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for point in entry_points(group=GROUP, name=name):
            try:
                command = point.load()
            except ModuleNotFoundError as error:
                return _lacking(name, error.name or str(error))
            assert isinstance(command, click.Command)
            return command
        return None


def _lacking(name: str, module: str) -> click.Command:
    """In the place of a command whose extra is not installed: listed like the others, and says what it needs."""

    def refuse() -> None:
        raise UsageError(
            f"`shelfrank {name}` needs the Python package {module}, which is not installed. It comes with an extra: "
            "pip install 'shelfrank[serve]' for serve and keys, 'shelfrank[ingest]' for catalogues, 'shelfrank[train]' "
            "for training."
        )

    free = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return click.Command(name, callback=refuse, help=f"(needs {module}, not installed)", context_settings=free)


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("shelfrank"), prog_name="shelfrank")
def shelfrank() -> None:
    """Semantic reranking for shops that search with OpenSearch.

    \b
    Example:
      shelfrank ingest catalog.csv --mapping catalog.toml --index shop
      shelfrank search "quiet keyboard" --index shop

    Exit codes: 0 done, 1 failed, 2 wrong use.
    """


def main() -> None:
    """Console entry point."""
    try:
        shelfrank.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except ShelfrankError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
