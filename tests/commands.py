"""`shelfrank` commands in this process: what a shell sees of them, without the seconds that a process takes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from indexer.cli import shelfrank
from indexer.errors import ShelfrankError


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, folder: Path, given: str = "", **environ: str) -> Done:
    """Run a command as somebody calls it in `folder`, with `given` on its standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner(env=environ).invoke(
            shelfrank, [str(each) for each in arguments], input=given, standalone_mode=False
        )
    # What `indexer.cli.main` makes of errors.
    error = result.exception
    if isinstance(error, click.ClickException):
        return Done(error.exit_code, result.stdout, f"{result.stderr}{error.format_message()}")
    if isinstance(error, ShelfrankError):
        return Done(error.exit_code, result.stdout, f"{result.stderr}Error: {error}")
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return Done(result.exit_code, result.stdout, result.stderr)
