"""Starting a supervisor, and watching until the stack it runs is ready."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headrace.native import minio
from headrace.native.config import StackConfig
from headrace.native.layout import StateDir
from headrace.native.orphans import running_supervisor
from headrace.native.state_file import ProcessRecord, ProcessState, StateFile, read_ledger, write_ledger
from headrace.runtime.errors import HeadraceError

_READY_S_MAX = 120.0
_FAILED_STARTS_MAX = 3
_POLL_S = 0.05
_SPAWN_S_MAX = 30
_LOG_LINES_SHOWN = 5


def spawn_supervisor(state: StateDir) -> None:
    """Start the supervisor in a session of its own; it is recorded when this returns."""
    write_ledger(state, StateFile())
    root = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH")
    with state.log("supervisor").open("ab") as log:
        subprocess.run(
            [sys.executable, "-P", "-m", "headrace.native.supervisor", str(state.root)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{root}:{others}" if others else root},
            timeout=_SPAWN_S_MAX,
        )


def wait_until_ready(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> None:
    """Report each process as it becomes ready.

    Raises HeadraceError, naming the process and the end of its log, when one fails or the time is up.
    """
    told: set[str] = set()
    deadline = time.monotonic() + _READY_S_MAX
    while True:
        ledger = read_ledger(state)
        for record in ledger.processes:
            if record.name not in told and record.state in {ProcessState.READY, ProcessState.DONE}:
                told.add(record.name)
                if record.name == "minio" and not config.services:
                    # With the service, its `init` makes the bucket.
                    minio.create_bucket(config, state)
                progress(_ready_line(record))
        if ledger.processes and len(told) == len(ledger.processes):
            return
        _raise_if_failed(state, ledger, told, timed_out=time.monotonic() > deadline)
        time.sleep(_POLL_S)


def _ready_line(record: ProcessRecord) -> str:
    took = f" in {record.ready_s:.1f} s" if record.ready_s is not None else ""
    if record.state is ProcessState.DONE:
        return f"{record.name}: done{took}"
    return f"{record.name}: ready{f' on {record.address}' if record.address else ''}{took}"


def _raise_if_failed(state: StateDir, ledger: StateFile, told: set[str], *, timed_out: bool) -> None:
    for record in ledger.processes:
        if record.name not in told and (record.restarts >= _FAILED_STARTS_MAX or timed_out):
            reason = record.last_exit or f"not ready after {_READY_S_MAX:.0f} s"
            raise _failed(record.name, reason, Path(record.log))
    if timed_out or (ledger.supervisor is not None and running_supervisor(state) is None):
        raise _failed("the supervisor", "it ended while the stack was starting", state.log("supervisor"))


def _failed(name: str, reason: str, log: Path) -> HeadraceError:
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    except OSError:
        lines = []
    said = f"; its log ends: {' | '.join(line.strip()[:200] for line in lines)}" if lines else ""
    return HeadraceError(
        "stack_start_failed",
        f"{name} did not start ({reason}){said}",
        where=str(log),
        hint="read the log; if the data here are of no use any more, `headrace down --purge` lets you start anew",
    )
