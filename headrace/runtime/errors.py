"""User-facing errors and exit codes."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes: 0 to 3 are the contract of the command line, the others are for the supervisor."""

    OK = 0
    FAILED = 1  # some items failed
    USAGE = 2  # invalid usage or setting
    UNREACHABLE = 3  # a required service is unreachable
    STUCK = 70  # the watchdog ended the process: work but no progress
    BROKEN = 71  # unexpected error; see the log
    TRANSIENT = 75  # a transient fault exceeded its deadline; Kafka redelivers the messages
    REVERTED = 77  # the catalog went back in time; `headrace recover` mends it
    QUOTA = 78  # dead-letter quota exceeded: probably a bad deploy
    CRASHED = 79  # the process reached a crash point that a test armed


class HeadraceError(Exception):
    """An error with a stable `code`, and what happened, where, and a hint on how to fix it, in a sentence each.

    It never contains a secret.
    """

    def __init__(self, code: str, what: str, *, where: str = "", hint: str = "", exit_code: int = Exit.FAILED) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"{self.code}: {self.what}{place}{hint}"


def unreachable(service: str, where: str, why: str, hint: str) -> HeadraceError:
    """Return the error for an unreachable service; `where` is its address without credentials."""
    return HeadraceError(
        f"{service}_unreachable",
        f"{service} does not answer: {why}",
        where=where,
        hint=hint,
        exit_code=Exit.UNREACHABLE,
    )
