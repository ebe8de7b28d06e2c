"""The command line, run in this process."""

from click.testing import CliRunner

import cli


def run(*words: object) -> tuple[int, str]:
    runner = CliRunner(env={"COLUMNS": "120"})
    result = runner.invoke(cli.main, [str(word) for word in words])
    return result.exit_code, result.output
