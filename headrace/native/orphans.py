"""Ending processes whose supervisor is gone."""

import os
import signal
from collections.abc import Callable

import psutil

from headrace.native.layout import StateDir
from headrace.native.state_file import StateFile, carriers, read_ledger, write_ledger

_STOP_S_MAX_UNKNOWN = 5.0


def running_supervisor(state: StateDir) -> psutil.Process | None:
    """The supervisor of this state directory while it runs."""
    identity = read_ledger(state).supervisor
    return identity.find() if identity else None


def end_leftovers(state: StateDir, stack_id: str | None, *, progress: Callable[[str], None]) -> int:
    """End what still runs of this stack, the dependent first, and return how many there were; may be repeated."""
    ledger = read_ledger(state)
    ended = 0
    for level in sorted({record.level for record in ledger.processes}, reverse=True):
        alive: list[tuple[psutil.Process, str, int]] = []
        stop_s_max = 0.0
        for record in ledger.processes:
            process = record.identity.find() if record.level == level and record.identity else None
            if process is not None:
                alive.append((process, record.name, record.stop_signal))
                stop_s_max = max(stop_s_max, record.stop_s_max)
        for process, name, stop_signal in alive:
            progress(f"{name}: left over (pid {process.pid}), stopping it")
            _signal(process, stop_signal)
        _end([process for process, _, _ in alive], stop_s_max)
        ended += len(alive)
    ended += _end_unrecorded(stack_id, progress) if stack_id else 0
    if ended:
        write_ledger(state, StateFile())
    return ended


def _end_unrecorded(stack_id: str, progress: Callable[[str], None]) -> int:
    """A supervisor killed between starting a process and recording it leaves one that only its environment names."""
    strays = [process for process in carriers(stack_id) if process.pid != os.getpid()]
    for process in strays:
        progress(f"pid {process.pid}: left over, stopping it")
        _signal(process, signal.SIGTERM)
    _end(strays, _STOP_S_MAX_UNKNOWN)
    return len(strays)


def _end(processes: list[psutil.Process], stop_s_max: float) -> None:
    _, stubborn = psutil.wait_procs(processes, timeout=stop_s_max)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
