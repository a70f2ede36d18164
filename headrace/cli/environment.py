"""What a command needs to run: installed extras, the addresses of the service, and the blob store of a new stack."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from headrace.runtime.errors import Exit, HeadraceError

if TYPE_CHECKING:
    from headrace.native import Store
    from headrace.runtime.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


def needs(*extras: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Report the extras to install if a command cannot import one of their packages."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
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

    return decorate


def client_settings() -> "Settings":
    """Return the settings for a command that talks to the service: see `headrace.runtime.stack_settings`.

    Raises:
        HeadraceError: a setting is invalid.
    """
    from headrace.runtime.stack_settings import client_settings as found_settings

    return found_settings()


def choose_store(requested: "Store | None", state_dir: Path, say: Callable[[str], None]) -> "Store":
    """Return the requested store, else the store of the existing stack, else MinIO if it is installed.

    Raises:
        HeadraceError: HEADRACE_MINIO_BINARY does not name a program.
    """
    from headrace.native import status
    from headrace.native.minio import binary_at_hand

    if requested is not None:
        return requested
    info = status(state_dir).info
    if info is not None:
        return info.store
    if binary_at_hand():
        return "minio"
    say("store: a local directory, because MinIO is not installed; `headrace up --store minio` builds it (5 minutes)")
    return "local"
