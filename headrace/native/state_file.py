"""Which processes belong to a stack, in a form that outlives the one that started them.

A pid alone proves nothing: it may have been given to another program since. A process counts as ours only when its
start time is the recorded one as well.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import psutil

from headrace.native.layout import StateDir, write_private

_CLOCK_S_MAX = 2.0
"""psutil derives start times from the wall clock's boot time, which NTP may shift by this much between two readings."""

STACK_ID_VARIABLE = "HEADRACE_STACK_ID"
"""Every process of a stack carries its stack's id in its environment, so it is found even if it was never recorded."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this machine, told apart from any other that ever had its pid."""

    pid: int
    created_at: float
    argv: tuple[str, ...]

    @classmethod
    def of(cls, pid: int, argv: tuple[str, ...] = ()) -> "ProcessIdentity":
        """Take the identity of a running process; raises psutil.NoSuchProcess when it is gone."""
        process = psutil.Process(pid)
        return cls(pid, process.create_time(), argv or tuple(process.cmdline()))

    def find(self) -> psutil.Process | None:
        """The process while it runs, else None."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            apart_s = abs(process.create_time() - self.created_at)
            same = apart_s == 0 or (apart_s < _CLOCK_S_MAX and tuple(process.cmdline()) == self.argv)
        except psutil.Error:
            return None
        return process if same else None


class ProcessState(StrEnum):
    """Where a process of the stack stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LEFT_OVER = "left_over"
    """It runs, but its supervisor is gone: the next `up` or `down` ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What is known of one process, with all that is needed to end it without its supervisor."""

    name: str
    state: ProcessState
    level: int
    stop_signal: int
    stop_s_max: float
    log: str
    address: str | None = None
    identity: ProcessIdentity | None = None
    restarts: int = 0
    last_exit: str | None = None
    ready_s: float | None = None


@dataclass(frozen=True, slots=True)
class StateFile:
    """The content of processes.json."""

    supervisor: ProcessIdentity | None = None
    processes: tuple[ProcessRecord, ...] = ()


def read_ledger(state: StateDir) -> StateFile:
    """What was last recorded; nothing, when there is no record or it cannot be read."""
    try:
        content = json.loads(state.ledger.read_bytes())
        return StateFile(
            identity_from(content["supervisor"]), tuple(_record_from(record) for record in content["processes"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return StateFile()


def write_ledger(state: StateDir, ledger: StateFile) -> None:
    """Record in one step."""
    write_private(state.ledger, json.dumps(asdict(ledger), indent=1).encode())


def identity_from(content: Mapping[str, Any] | None) -> ProcessIdentity | None:
    """Read back what `dataclasses.asdict` made; raises KeyError or TypeError when it is something else."""
    return ProcessIdentity(content["pid"], content["created_at"], tuple(content["argv"])) if content else None


def _record_from(content: Mapping[str, Any]) -> ProcessRecord:
    own = {"state": ProcessState(content["state"]), "identity": identity_from(content["identity"])}
    return ProcessRecord(**{**content, **own})


def carriers(stack_id: str) -> list[psutil.Process]:
    """Processes that carry the stack's id, as far as this user may look."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(STACK_ID_VARIABLE) == stack_id:
                found.append(process)
    return found
