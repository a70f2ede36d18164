"""`headrace env`: the variables that connect a shell, another program or a container to the stack of this machine."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from headrace.cli.output import print_json
from headrace.cli.status import stack_not_running


class EnvFormat(StrEnum):
    """How the variables are written."""

    SHELL = "shell"
    DOTENV = "dotenv"
    JSON = "json"


def env(
    *,
    format_: Annotated[EnvFormat, typer.Option("--format", help="shell, dotenv or json.")] = EnvFormat.SHELL,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the HEADRACE_* variables of the stack, with its secrets: `eval "$(headrace env)"`.

    Commands and Python programs below the stack's folder find the stack without them.
    """
    from headrace.runtime.settings import load_settings
    from headrace.runtime.stack_settings import stack_variables

    state_dir = load_settings().state_dir
    variables = stack_variables(state_dir)
    if variables is None:
        raise stack_not_running(state_dir)
    if as_json or format_ is EnvFormat.JSON:
        print_json(variables)
    else:
        typer.echo("\n".join(lines(variables, format_)))


def lines(variables: Mapping[str, str], format_: EnvFormat) -> list[str]:
    """Return a line for each variable, quoted so that a shell, or a reader of `.env`, gets the same value."""
    if format_ is EnvFormat.SHELL:
        return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return [
        f"{name}='{value.replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'"
        for name, value in variables.items()
    ]
