"""Starts a supervisor and waits until the stack it runs is ready."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headrace.native import minio
from headrace.native.config import StackConfig
from headrace.native.layout import StateDir
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessRecord,
    ProcessState,
    StateFile,
    read_state,
    running_supervisor,
    write_state,
)
from headrace.runtime.errors import HeadraceError

_READY_S_MAX = 120.0
_FAILED_STARTS_MAX = 3
_POLL_S = 0.05
_SPAWN_S_MAX = 30
_LOG_LINES_SHOWN = 5


def spawn_supervisor(config: StackConfig, state: StateDir, owner_pid: int | None) -> None:
    """Start the supervisor in a session of its own; the state file names it when this returns."""
    write_state(state, StateFile())
    root = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH")
    owner = [str(owner_pid)] if owner_pid is not None else []
    with state.log("supervisor").open("ab") as log:
        subprocess.run(
            [sys.executable, "-P", "-m", "headrace.native.supervisor", str(state.root), *owner],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": f"{root}:{others}" if others else root,
                STACK_ID_VARIABLE: config.stack_id,
            },
            timeout=_SPAWN_S_MAX,
        )


def wait_until_ready(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> None:
    """Report each process as it becomes ready.

    Raises HeadraceError, with the name of the process and the end of its log, when one fails or does not become ready
    within 120 s.
    """
    reported: set[str] = set()
    deadline = time.monotonic() + _READY_S_MAX
    while True:
        content = read_state(state)
        for record in content.processes:
            if record.name not in reported and record.state in {ProcessState.READY, ProcessState.DONE}:
                reported.add(record.name)
                if record.name == "minio" and not config.services:
                    # With the service, its `init` creates the bucket.
                    minio.create_bucket(config, state)
                progress(_ready_line(record))
        if content.processes and len(reported) == len(content.processes):
            return
        _raise_if_failed(state, content, reported, timed_out=time.monotonic() > deadline)
        time.sleep(_POLL_S)


def _ready_line(record: ProcessRecord) -> str:
    took = f" in {record.ready_s:.1f} s" if record.ready_s is not None else ""
    if record.state is ProcessState.DONE:
        return f"{record.name}: done{took}"
    return f"{record.name}: ready{f' on {record.address}' if record.address else ''}{took}"


def _raise_if_failed(state: StateDir, content: StateFile, reported: set[str], *, timed_out: bool) -> None:
    for record in content.processes:
        if record.name not in reported and (record.restarts >= _FAILED_STARTS_MAX or timed_out):
            reason = record.last_exit or f"not ready after {_READY_S_MAX:.0f} s"
            raise _failed(record.name, reason, Path(record.log))
    if timed_out or running_supervisor(state) is None:
        raise _failed("the supervisor", "it ended while the stack was starting", state.log("supervisor"))


def _failed(name: str, reason: str, log: Path) -> HeadraceError:
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    except OSError:
        lines = []
    log_end = f"; its log ends: {' | '.join(line.strip()[:200] for line in lines)}" if lines else ""
    return HeadraceError(
        "stack_start_failed",
        f"{name} did not start ({reason}){log_end}",
        where=str(log),
        hint="read the log; if you do not need this stack's data, run `headrace down --purge` and start again",
    )
