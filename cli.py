"""The command line: the packages' commands, their errors as sentences, and how to resume."""

import os
import shlex
import signal
import sys
import warnings

import click

from cache.commands.build import cache_teacher
from cache.commands.group import cache_group
from cache.errors import CacheError, CacheWarning
from distill.commands import init_student, sweep, train
from distill.errors import DistillError
from evaluation.commands import evaluate, report, score
from evaluation.errors import EvaluationError
from evaluation.lesson_commands import write_lessons

_show_other_warning = warnings.showwarning
_shown: set[str] = set()


class Commands(click.Group):
    """Turns the packages' errors into a sentence, and Ctrl-C into the command that resumes."""

    def invoke(self, ctx: click.Context):
        """Run the command that was named."""
        signal.signal(signal.SIGTERM, _interrupt)
        warnings.showwarning = _show_warning
        if not sys.stderr.isatty():  # a log wants no bars, those of libraries neither
            os.environ.setdefault("TQDM_DISABLE", "1")
        _shown.clear()
        try:
            return super().invoke(ctx)
        except (CacheError, DistillError, EvaluationError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            message = f"\nStopped; what is finished is kept. To resume:\n  {_command_to_go_on()}"
            click.echo(message, err=True)
            sys.exit(130)


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def _show_warning(message, category, *rest, **options):
    if not issubclass(category, CacheWarning):
        _show_other_warning(message, category, *rest, **options)
    elif str(message) not in _shown:  # once a command
        _shown.add(str(message))
        click.echo(f"Warning: {message}", err=True)


def _command_to_go_on() -> str:
    program = ["python", "cli.py"] if sys.argv[0].endswith("cli.py") else ["logitcache"]
    words = sys.argv[1:]
    if words[:1] == ["train"] and "--resume" not in words:
        words = [*words, "--resume"]
    return shlex.join([*program, *words])


@click.group(cls=Commands, context_settings={"max_content_width": 100, "show_default": True})
@click.version_option(package_name="logitcache")
def main():
    """Run a teacher once, store its soft targets, train any number of students from them.

    \b
    Example:
      python cli.py cache-teacher --out runs/cache
      python cli.py sweep --cache runs/cache --out runs/students
      python cli.py evaluate --checkpoints runs/students/* --teacher bigcode/starcoder2-3b
    """


for command in (
    write_lessons, cache_teacher, cache_group, init_student, train, sweep, evaluate, report, score,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
