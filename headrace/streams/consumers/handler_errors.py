"""What follows an error of a consumer's handler, and where in the handler it happened."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from headrace.runtime.errors import Exit, HeadraceError


class OnError(StrEnum):
    """What `consume` does when a handler raises; while a service of Headrace is away it retries in any case."""

    RETRY = "retry"
    """Call the handler again with backoff until the deadline, then raise its error."""
    SKIP = "skip"
    """Log the error and go on: the record is not delivered to the group again."""
    STOP = "stop"
    """Raise the error at once."""


def on_error_of(value: str) -> OnError:
    """Return the policy with this name.

    Raises:
        HeadraceError: there is none.
    """
    try:
        return OnError(value)
    except ValueError:
        raise HeadraceError(
            "on_error_unknown",
            f"{value!r} is no policy for errors",
            hint=f"use one of {', '.join(OnError)}",
            exit_code=Exit.USAGE,
        ) from None


@dataclass(frozen=True, slots=True)
class HandlerErrors:
    """The policy for the errors of a handler, and the handler itself, to find its lines in a traceback."""

    policy: OnError = OnError.RETRY
    handler: Callable[..., Any] | None = None

    def reaction(self, error: Exception) -> OnError:
        """Return what follows: a fault of a service is retried, the handler's own error as the policy says."""
        is_service = isinstance(error, HeadraceError) and error.exit_code == Exit.UNREACHABLE
        return OnError.RETRY if is_service else self.policy

    def place_of(self, error: BaseException) -> str:
        """Return `file:line` of the innermost line in the handler's file, or else where the error was raised."""
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(self.handler, "__code__", None)
        own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
        if not frames:
            return ""
        frame = (own or frames)[-1]
        return f"{Path(frame.filename).name}:{frame.lineno}"
