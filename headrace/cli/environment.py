"""What a command needs to run: installed extras, the addresses of the service, and the blob store of a new stack."""

import os
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

_PREFIX = "HEADRACE_"
# If any of these is set, the command talks to the service at that address and not to the local stack.
_ADDRESSES = ("HEADRACE_KAFKA_BOOTSTRAP", "HEADRACE_POSTGRES_DSN", "HEADRACE_STORE_URL")


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
    """Return the settings for a command that talks to the service.

    Addresses come from the environment and `.env`; if none is set there, from the stack in the state directory.

    Raises:
        HeadraceError: a setting is invalid.
    """
    from headrace.runtime.settings import load_settings

    settings = load_settings()
    if any(name in os.environ for name in _ADDRESSES) or settings.model_fields_set & {
        name.removeprefix(_PREFIX).lower() for name in _ADDRESSES
    }:
        return settings
    try:
        from headrace.native import status
    except ModuleNotFoundError:
        return settings  # without the extra `native` no stack runs on this machine

    info = status(settings.state_dir).info
    if info is None:
        return settings
    overrides = {name[len(_PREFIX) :].lower(): value for name, value in info.env().items()}
    if "archive_url" in settings.model_fields_set:
        del overrides["archive_url"]  # a local stack may use an archive elsewhere
    return load_settings(**overrides)


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
