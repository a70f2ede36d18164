"""Errors that a person reads: what happened, where, and what to do next."""

from enum import IntEnum


class Exit(IntEnum):
    """What a process ends with. 0 to 3 are the command line's contract; the others tell the supervisor why."""

    OK = 0
    FAILED = 1  # some items failed; they are named
    USAGE = 2  # wrong use, or a wrong setting
    UNREACHABLE = 3  # a needed service is not reachable
    STUCK = 70  # no progress although there was work: the watchdog ended the process
    BROKEN = 71  # a fault that nobody foresaw; the log has it
    TRANSIENT = 75  # a fault that should have passed did not within its deadline; the messages come again
    QUOTA = 78  # too many dead letters in a row: probably a bad deploy
    CRASHED = 79  # a test armed a crash point, and the process came there


class HeadraceError(Exception):
    """Something a person must know, in one sentence each: what happened, where, and what to do next.

    It never carries a secret. `code` is stable, for programs.
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
    """Return the error for a service that does not answer; `where` is its address without credentials."""
    return HeadraceError(
        f"{service}_unreachable",
        f"{service} does not answer: {why}",
        where=where,
        hint=hint,
        exit_code=Exit.UNREACHABLE,
    )
