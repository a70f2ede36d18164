"""The operations on a native stack: `up`, `down`, `status`, and those that fault tests need."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from headrace.native import minio, sites
from headrace.native.applied_settings import differing, write_applied
from headrace.native.config import (
    Brokers,
    Secrets,
    ServiceSpec,
    SiteSpec,
    StackConfig,
    Store,
    assign_ports,
    new_ids,
    port_names,
    read_config,
    write_config,
)
from headrace.native.info import ProcessStatus, StackInfo, StackStatus
from headrace.native.layout import StateDir, locked, write_private
from headrace.native.prepare import prepare
from headrace.native.service import SERVICES
from headrace.native.state_file import (
    STACK_ID_VARIABLE,
    ProcessRecord,
    ProcessState,
    StateFile,
    find_process,
    read_state,
    running_supervisor,
    stop_orphans,
    wait_ended,
    write_state,
)
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import load_settings
from headrace.runtime.stack_settings import CLIENT_FILE

Progress = Callable[[str], None]

_STOP_S_MAX = 45.0
_READY_S_MAX = 120.0
_FAILED_STARTS_MAX = 3
_POLL_S = 0.05
_SPAWN_S_MAX = 30
_LOG_LINES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run, and where. With `owner_pid` the stack stops when that process ends, and its data are removed."""

    state_dir: Path
    store: Store = "minio"
    brokers: Brokers = 1
    services: tuple[ServiceSpec, ...] = SERVICES
    owner_pid: int | None = None
    sites: tuple[str, ...] = ()
    """Names of sites; each but the last has a Kafka of its own, which is mirrored into that of the stack."""


def up(options: StackOptions, progress: Progress) -> StackInfo:
    """Start the stack if it does not run, and return its addresses once every process serves; may be repeated.

    Raises HeadraceError when a server cannot be installed or does not start; then nothing is left running.
    """
    state = StateDir.at(options.state_dir)
    state.create()
    with locked(state.root / "up.lock"):
        config = read_config(state)
        if running_supervisor(state) is not None and config is not None:
            _check_same(options, config, state)
            wait_until_ready(config, state, lambda _: None)
            progress(f"already running in {state.root}")
            if differences := differing(state, load_settings()):
                for line in (*differences, "`headrace down`, then `headrace up` applies it; data stays"):
                    progress(line)
            return _published(StackInfo.of(config, state))
        if config is not None:
            stop_orphans(state, config.stack_id, progress=progress)
        config = _configure(options, config, state)
        write_config(state, config)
        config = prepare(config, state, progress)
        write_config(state, config)
        write_applied(state, load_settings())
        try:
            spawn_supervisor(config, state, options.owner_pid)
            wait_until_ready(config, state, progress)
        except BaseException:
            # Also when the user interrupts it: a part of a stack is of no use.
            down(state.root, progress=progress)
            raise
        return _published(StackInfo.of(config, state))


def _published(info: StackInfo) -> StackInfo:
    """Write the file in which clients without the extra `native` find the stack."""
    write_private(info.state_dir / CLIENT_FILE, json.dumps(info.env(), indent=1).encode())
    return info


def down(state_dir: Path, *, purge: bool = False, progress: Progress) -> bool:
    """Stop the stack and what a killed supervisor left running, and return whether anything ran; may be repeated.

    With `purge` it removes the data as well.
    """
    state = StateDir.at(state_dir)
    if not state.root.is_dir():
        progress(f"nothing runs in {state.root}")
        return False
    began = time.monotonic()
    supervisor = running_supervisor(state)
    if supervisor is not None:
        progress(f"stopping {len(read_state(state).processes)} processes")
        _stop_supervisor(supervisor)
    config = read_config(state)
    stopped = stop_orphans(state, config.stack_id, progress=progress) if config else 0
    if purge:
        state.purge()
    ran = supervisor is not None or stopped > 0
    progress(f"stopped in {time.monotonic() - began:.1f} s" if ran else f"nothing runs in {state.root}")
    return ran


def status(state_dir: Path) -> StackStatus:
    """Return whether a stack runs in this state directory, and the state of its processes."""
    state = StateDir.at(state_dir)
    config, content = read_config(state), read_state(state)
    running = running_supervisor(state) is not None
    stack_id = config.stack_id if config else None
    return StackStatus(
        state_dir=state.root,
        running=running,
        info=StackInfo.of(config, state) if config and config.tools else None,
        processes=tuple(_status_of(record, stack_id, supervised=running) for record in content.processes),
    )


@contextmanager
def temporary_stack(
    store: Store = "minio",
    brokers: Brokers = 1,
    *,
    services: tuple[ServiceSpec, ...] = (),
    state_dir: Path | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[StackInfo]:
    """Run a stack in a directory of its own, or in the given one, and remove both at the end.

    When this process is killed, the stack's supervisor notices and does the same. Raises what `up` raises.
    """
    state_dir = state_dir or Path(tempfile.mkdtemp(prefix="headrace-"))
    try:
        yield up(StackOptions(state_dir, store, brokers, services, owner_pid=os.getpid()), progress)
    finally:
        down(state_dir, purge=True, progress=progress)


def kill(state_dir: Path, name: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one process of the stack and return its pid.

    Raises HeadraceError when it does not run.
    """
    config = read_config(StateDir.at(state_dir))
    process = find_process(_record_of(state_dir, name).pid, config.stack_id if config else None)
    if process is None:
        raise HeadraceError("process_not_running", f"{name} does not run", where=str(state_dir))
    process.send_signal(number)
    return int(process.pid)


def restart_count(state_dir: Path, name: str) -> int:
    """Return how many times the supervisor has restarted the process."""
    return _record_of(state_dir, name).restarts


def _stop_supervisor(supervisor: psutil.Process) -> None:
    supervisor.send_signal(signal.SIGTERM)
    if wait_ended([supervisor], _STOP_S_MAX):
        supervisor.kill()


def _configure(options: StackOptions, known: StackConfig | None, state: StateDir) -> StackConfig:
    """Keep the known configuration and choose the rest; a port that is taken now is replaced."""
    has_data = any(_has_entries(state.part(name)) for name in ("kafka", "postgres"))
    if has_data and (known is None or known.brokers != options.brokers):
        holds = f"a stack of {known.brokers} broker(s)" if known else "data of a stack whose stack.json is missing"
        raise HeadraceError(
            "stack_differs",
            f"{state.root} holds {holds}",
            hint=f"start it with --brokers {known.brokers}, or choose another state directory"
            if known
            else "put stack.json back, or choose another state directory with HEADRACE_STATE_DIR",
            exit_code=2,
        )
    names = port_names(options.store, options.brokers, options.services) + sites.port_names(options.sites)
    ports = assign_ports(names, known.ports if known else {})
    if known is not None:
        changed = replace(known, store=options.store, services=options.services, ports={**known.ports, **ports})
        return _with_sites(options, changed)
    stack_id, cluster_id = new_ids()
    config = StackConfig(
        stack_id=stack_id,
        cluster_id=cluster_id,
        store=options.store,
        brokers=options.brokers,
        services=options.services,
        ports=ports,
        secrets=Secrets.new(),
    )
    return _with_sites(options, config)


def _with_sites(options: StackOptions, config: StackConfig) -> StackConfig:
    """Add the sites; one that has data keeps its cluster id."""
    *others, centre = options.sites or ("",)
    known = {site.name: site for site in config.sites}
    added = tuple(known.get(name) or SiteSpec(name, new_ids()[1]) for name in others)
    return replace(config, sites=added, centre=centre)


def _has_entries(directory: Path) -> bool:
    # An empty one may be a file system that was mounted for the data.
    return directory.is_dir() and any(directory.iterdir())


def _check_same(options: StackOptions, config: StackConfig, state: StateDir) -> None:
    running, wanted = _compared(config), _compared(options)
    if differences := [name for name in running if running[name] != wanted[name]]:
        said = "; ".join(f"{name}: {running[name]}, not {wanted[name]}" for name in differences)
        raise HeadraceError(
            "stack_differs",
            f"another stack runs in {state.root}: {said}",
            hint="`headrace scale` changes the number of workers; for the rest stop it first with `headrace down`, or "
            "choose another state directory",
            exit_code=2,
        )


def _compared(stack: StackConfig | StackOptions) -> dict[str, str]:
    if isinstance(stack, StackOptions):
        names = stack.sites
    else:
        names = (*(site.name for site in stack.sites), *((stack.centre,) if stack.centre else ()))
    return {
        "store": stack.store,
        "brokers": str(stack.brokers),
        "services": ", ".join(service.name for service in stack.services) or "none",
        "sites": ", ".join(names) or "none",
    }


def _status_of(record: ProcessRecord, stack_id: str | None, *, supervised: bool) -> ProcessStatus:
    process = find_process(record.pid, stack_id)
    state = record.state
    if not supervised:
        state = ProcessState.LEFT_OVER if process else ProcessState.STOPPED
    elif process is None and state is ProcessState.READY:
        state = ProcessState.RESTARTING  # it has ended, and its supervisor has not written so yet
    return ProcessStatus(
        name=record.name,
        state=state,
        pid=process.pid if process else None,
        restarts=record.restarts,
        address=record.address,
        last_exit=record.last_exit,
        log=Path(record.log),
    )


def _record_of(state_dir: Path, name: str) -> ProcessRecord:
    records = {record.name: record for record in read_state(StateDir.at(state_dir)).processes}
    if name not in records:
        raise HeadraceError(
            "process_unknown",
            f"this stack has no process {name}, only {', '.join(sorted(records)) or 'none'}",
            where=str(state_dir),
            exit_code=2,
        )
    return records[name]


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
        hint=f"`headrace logs {log.stem}` shows the whole log",
    )
