"""What a command needs beyond the base installation: the extras of pyproject.toml."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from headrace.runtime.errors import Exit, HeadraceError

P = ParamSpec("P")
R = TypeVar("R")


def needs(*extras: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a command name the extras to install where one of their modules is missing."""

    def wrapped(command: Callable[P, R]) -> Callable[P, R]:
        @wraps(command)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return command(*args, **kwargs)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] == "headrace":
                    raise
                raise HeadraceError(
                    "package_missing",
                    f"the command needs {error.name}, which is not installed",
                    hint=f"pip install 'headrace[{','.join(extras)}]'",
                    exit_code=Exit.USAGE,
                ) from None

        return checked

    return wrapped
