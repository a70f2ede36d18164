"""The state file (processes.json), which `headrace status` reads, and the processes that a killed supervisor left.

A pid alone proves nothing: after a reboot it belongs to another program. Every process of a stack carries the stack's
id in its environment, and only a process that does is ever reported or stopped.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import psutil

from headrace.native.layout import StateDir, write_private

STACK_ID_VARIABLE = "HEADRACE_STACK_ID"

_ORPHAN_STOP_S_MAX = 25.0
"""The service drains for 20 s, and a first Kafka broker writes its class archive for up to 15 s after its own stop."""
_KILL_S_MAX = 5.0
_POLL_S = 0.02


class ProcessState(StrEnum):
    """The state of a process in the stack."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    """It serves, without an optional service; only an answer of the process says so."""
    NOT_READY = "not_ready"
    """It runs and does not serve; only an answer of the process, or its absence, says so."""
    DONE = "done"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LEFT_OVER = "left_over"
    """It still runs although its supervisor was killed: it is stopping, or the next `up` or `down` stops it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What the supervisor knows of one process."""

    name: str
    state: ProcessState
    stop_signal: int
    log: str
    address: str | None = None
    pid: int | None = None
    restarts: int = 0
    last_exit: str | None = None
    ready_s: float | None = None


@dataclass(frozen=True, slots=True)
class StateFile:
    """The content of processes.json."""

    stack_id: str | None = None
    supervisor_pid: int | None = None
    processes: tuple[ProcessRecord, ...] = ()


def read_state(state: StateDir) -> StateFile:
    """Return what the supervisor wrote last; an empty state where the file is missing or cannot be read."""
    try:
        content = json.loads(state.processes.read_bytes())
        records = tuple(_record_from(record) for record in content["processes"])
        return StateFile(content["stack_id"], content["supervisor_pid"], records)
    except (OSError, ValueError, KeyError, TypeError):
        return StateFile()


def write_state(state: StateDir, content: StateFile) -> None:
    """Replace the state file in one step."""
    write_private(state.processes, json.dumps(asdict(content), indent=1).encode())


def _record_from(content: Mapping[str, Any]) -> ProcessRecord:
    return ProcessRecord(**{**content, "state": ProcessState(content["state"])})


def find_process(pid: int | None, stack_id: str | None) -> psutil.Process | None:
    """Return the process with this pid if it runs and belongs to the stack, else None."""
    if pid is None or stack_id is None:
        return None
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.environ().get(STACK_ID_VARIABLE) == stack_id:
            return process
    return None


def stack_processes(stack_id: str) -> list[psutil.Process]:
    """Return all processes that belong to the stack, except this one, as far as this user may see them."""
    processes = (find_process(pid, stack_id) for pid in psutil.pids() if pid != os.getpid())
    return [process for process in processes if process is not None]


def running_supervisor(state: StateDir) -> psutil.Process | None:
    """Return the supervisor of this state directory while it runs, else None."""
    content = read_state(state)
    return find_process(content.supervisor_pid, content.stack_id)


def stop_orphans(state: StateDir, stack_id: str, *, progress: Callable[[str], None]) -> int:
    """Stop what a killed supervisor left running, and return how many processes there were; may be repeated.

    On Linux the kernel has told them to stop already, and this waits for them. What does not stop in 25 s is killed.
    """
    records = {record.pid: record for record in read_state(state).processes}
    processes = stack_processes(stack_id)
    orphans = [process for process in processes if not _has_parent_among(process, processes)]
    for process in orphans:
        record = records.get(process.pid)
        progress(f"{record.name if record else 'a process'}: left over (pid {process.pid}), stopping it")
        _signal(process, record.stop_signal if record else signal.SIGTERM)
    alive = wait_ended(processes, _ORPHAN_STOP_S_MAX)
    for process in alive:
        _signal(process, signal.SIGKILL)
    wait_ended(alive, _KILL_S_MAX)
    if orphans:
        write_state(state, StateFile())
    return len(orphans)


def wait_ended(processes: list[psutil.Process], s_max: float) -> list[psutil.Process]:
    """Wait until the processes have ended, and return those that still run after `s_max` seconds."""
    deadline = time.monotonic() + s_max
    alive = [process for process in processes if is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        alive = [process for process in alive if is_alive(process)]
    return alive


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process runs; a zombie has ended (in a container nobody may collect it)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _has_parent_among(process: psutil.Process, processes: list[psutil.Process]) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.ppid() in {other.pid for other in processes}
    return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
