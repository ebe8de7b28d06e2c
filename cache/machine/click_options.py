"""What the commands of all packages are put together from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)

Command = TypeVar("Command", bound=Callable)


def add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """The command with `click.option`s, which its help shows in their order."""
    for option in reversed(options):
        command = option(command)
    return command
