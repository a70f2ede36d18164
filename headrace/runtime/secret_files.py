"""Directories of files that hold settings, which pydantic-settings reads: what it only warns of is an error here."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic_settings import SettingsError

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.setting_names import variable

SEPARATOR = ":"


def secret_directories(text: str) -> dict[str, list[str]]:
    """Return the directories that a list names, each with the names of its files.

    Raises:
        HeadraceError: a directory is missing or cannot be read.
    """
    directories = {}
    for part in filter(None, text.split(SEPARATOR)):
        path = Path(part).expanduser()
        try:
            directories[str(path)] = [entry.name for entry in path.iterdir()]
        except OSError as error:
            raise _unreadable(f"the directory {path} cannot be read: {error.strerror}") from None
    return directories


@contextmanager
def reading_secrets() -> Iterator[None]:
    """Raise an error for a file that pydantic-settings cannot read, or skips with a warning.

    Raises:
        HeadraceError: a file cannot be read, is not text, or is a link to outside of its directory; its content is not
            in the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="attempted to load secret file|directory .* does not exist")
            yield
    except UserWarning as warning:
        raise _unreadable(_reason(warning)) from None
    except SettingsError as error:
        raise _unreadable(_reason(error.__cause__ or error)) from None


def _reason(error: BaseException) -> str:
    """Return why a file was not read; the text of other errors may quote it."""
    match error:
        case UnicodeDecodeError():
            return "a file in it is not text in UTF-8"
        case OSError():
            return f"the file {error.filename} cannot be read: {error.strerror}"
        case UserWarning() | SettingsError():
            return str(error).removeprefix("attempted to load secret ").rstrip(".")
        case _:
            return f"a file in it cannot be read: {type(error).__name__}"


def _unreadable(what: str) -> HeadraceError:
    return HeadraceError(
        "setting_invalid",
        f"{variable('secrets_dir')} is not usable: {what}",
        hint="docs/security.md says how secrets are set as files",
        exit_code=Exit.USAGE,
    )
