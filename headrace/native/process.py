"""What a process of the stack is, as a value: the supervisor runs these and knows nothing of Kafka or PostgreSQL."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

ReadyCheck = Callable[[], bool]
"""Returns within about a second whether the process serves; an OSError counts as no."""


class RestartPolicy(StrEnum):
    """What the supervisor does when the process ends by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on_failure"
    """For a step that runs once: exit 0 means done, and lets what depends on it start."""


@dataclass(frozen=True, slots=True)
class PosixAccount:
    """The unprivileged account that a process runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to keep running; secrets belong in `env` or in files, never in `argv`, which every user can read."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ready: ReadyCheck | None = None
    address: str | None = None
    depends_on: tuple[str, ...] = ()
    user: PosixAccount | None = None
    restart: RestartPolicy = RestartPolicy.ALWAYS
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s_max: float = 5.0


def dependency_levels(processes: tuple[ProcessSpec, ...]) -> dict[str, int]:
    """Return the level of each process: 0 depends on nothing; processes stop from the highest level down.

    Raises ValueError for an unknown or circular dependency.
    """
    by_name = {process.name: process for process in processes}
    levels: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        if name in path or name not in by_name:
            raise ValueError(f"{' -> '.join((*path, name))} is unknown or circular")
        if name not in levels:
            levels[name] = max((visit(other, (*path, name)) + 1 for other in by_name[name].depends_on), default=0)
        return levels[name]

    for name in by_name:
        visit(name, ())
    return levels
