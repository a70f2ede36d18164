"""`headrace completion` and `--version`."""

import os
from enum import StrEnum
from typing import Annotated

import typer

NAME = "headrace"
_VARIABLE = "_HEADRACE_COMPLETE"


class Shell(StrEnum):
    """A shell whose completion there is."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion of a shell: `source <(headrace completion bash)`.

    To keep it, write it into a file that the shell reads: `~/.local/share/bash-completion/completions/headrace`,
    `_headrace` in a directory of zsh's `fpath`, or `~/.config/fish/completions/headrace.fish`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name=NAME, complete_var=_VARIABLE, shell=shell.value))


def prepare_completion() -> None:
    """Make Typer answer the shell where it asks for completions."""
    if _VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()


def show_version(asked: bool) -> None:  # noqa: FBT001 - Typer passes the value
    """Print the version and end."""
    if asked:
        import headrace

        typer.echo(f"{NAME} {headrace.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
