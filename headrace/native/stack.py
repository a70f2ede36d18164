"""The native stack as one thing: `up`, `down`, `status`, and what fault tests need."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from headrace.native.config import (
    Brokers,
    Secrets,
    ServiceSpec,
    StackConfig,
    Store,
    new_ids,
    port_names,
    read_config,
    write_config,
)
from headrace.native.info import ProcessStatus, StackInfo, StackStatus
from headrace.native.layout import StateDir, locked
from headrace.native.orphans import end_leftovers, running_supervisor
from headrace.native.ports import assign
from headrace.native.prepare import prepare
from headrace.native.service import SERVICES
from headrace.native.start import spawn_supervisor, wait_until_ready
from headrace.native.state_file import ProcessIdentity, ProcessRecord, ProcessState, read_ledger
from headrace.runtime.errors import HeadraceError

Progress = Callable[[str], None]

_STOP_S_MAX = 45.0


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run, and where. With `owner_pid` the stack ends, and its data with it, when that process is gone."""

    state_dir: Path
    store: Store = "minio"
    brokers: Brokers = 1
    services: tuple[ServiceSpec, ...] = SERVICES
    owner_pid: int | None = None


def up(options: StackOptions, progress: Progress) -> StackInfo:
    """Start the stack, or find it running, and return its addresses once every process serves; may be repeated.

    Raises HeadraceError when a part cannot be had or does not start; then nothing is left running.
    """
    state = StateDir.at(options.state_dir)
    state.create()
    with locked(state.root / "up.lock", wait=True):
        config = read_config(state)
        if running_supervisor(state) is not None and config is not None:
            _check_same(options, config, state)
            wait_until_ready(config, state, lambda _: None)
            progress(f"already running in {state.root}")
            return StackInfo.of(config, state)
        end_leftovers(state, config.stack_id if config else None, progress=progress)
        config = _configure(options, config, state)
        write_config(state, config)
        config = prepare(config, state, progress)
        write_config(state, config)
        try:
            spawn_supervisor(state)
            wait_until_ready(config, state, progress)
        except BaseException:
            # Also when the user interrupts: half a stack is of no use to anybody.
            down(state.root, progress=progress)
            raise
        return StackInfo.of(config, state)


def down(state_dir: Path, *, purge: bool = False, progress: Progress) -> bool:
    """Stop the stack and whatever a killed supervisor left, and return whether anything ran; may be repeated.

    With `purge` its data are removed as well.
    """
    state = StateDir.at(state_dir)
    if not state.root.is_dir():
        progress(f"nothing runs in {state.root}")
        return False
    began = time.monotonic()
    supervisor = running_supervisor(state)
    if supervisor is not None:
        progress(f"stopping {len(read_ledger(state).processes)} processes")
        _stop_supervisor(supervisor)
    config = read_config(state)
    ended = end_leftovers(state, config.stack_id if config else None, progress=progress)
    if purge:
        state.purge()
    ran = supervisor is not None or ended > 0
    progress(f"stopped in {time.monotonic() - began:.1f} s" if ran else f"nothing runs in {state.root}")
    return ran


def status(state_dir: Path) -> StackStatus:
    """What runs in this state directory, and how it is."""
    state = StateDir.at(state_dir)
    config = read_config(state)
    running = running_supervisor(state) is not None
    return StackStatus(
        state_dir=state.root,
        running=running,
        info=StackInfo.of(config, state) if config and config.tools else None,
        processes=tuple(_status_of(record, supervised=running) for record in read_ledger(state).processes),
    )


def kill(state_dir: Path, name: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Send a signal to one process of the stack and return its pid.

    Raises HeadraceError when it does not run.
    """
    record = _record_of(state_dir, name)
    process = record.identity.find() if record.identity else None
    if process is None:
        raise HeadraceError("process_not_running", f"{name} does not run", where=str(state_dir))
    process.send_signal(number)
    return int(process.pid)


def restart_count(state_dir: Path, name: str) -> int:
    """How many times the supervisor has started the process again."""
    return _record_of(state_dir, name).restarts


def _stop_supervisor(supervisor: psutil.Process) -> None:
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(_STOP_S_MAX)
    except psutil.TimeoutExpired:
        supervisor.kill()


def _configure(options: StackOptions, known: StackConfig | None, state: StateDir) -> StackConfig:
    """Carry over what was written down, and choose the rest; ports that were taken meanwhile are chosen anew."""
    has_data = any(_holds_something(state.part(name)) for name in ("kafka", "postgres"))
    if has_data and (known is None or known.brokers != options.brokers):
        what = f"a stack of {known.brokers} broker(s)" if known else "data of a stack whose stack.json is missing"
        raise HeadraceError(
            "stack_differs",
            f"{state.root} holds {what}",
            hint="choose another state directory, or remove this one's data with `headrace down --purge`",
            exit_code=2,
        )
    owner = ProcessIdentity.of(options.owner_pid) if options.owner_pid else None
    ports = assign(port_names(options.store, options.brokers, options.services), known.ports if known else {})
    if known is not None:
        return replace(
            known, store=options.store, services=options.services, ports={**known.ports, **ports}, owner=owner
        )
    stack_id, cluster_id = new_ids()
    return StackConfig(
        stack_id=stack_id,
        cluster_id=cluster_id,
        store=options.store,
        brokers=options.brokers,
        services=options.services,
        ports=ports,
        secrets=Secrets.new(),
        owner=owner,
    )


def _holds_something(directory: Path) -> bool:
    # An empty one may be a file system that somebody mounted there for the data to come.
    return directory.is_dir() and any(directory.iterdir())


def _check_same(options: StackOptions, config: StackConfig, state: StateDir) -> None:
    if (options.store, options.brokers, options.services) != (config.store, config.brokers, config.services):
        raise HeadraceError(
            "stack_differs",
            f"another stack runs in {state.root}: store {config.store}, {config.brokers} broker(s), "
            f"{len(config.services)} service process(es)",
            hint="stop it first with `headrace down`, or choose another state directory",
            exit_code=2,
        )


def _status_of(record: ProcessRecord, *, supervised: bool) -> ProcessStatus:
    process = record.identity.find() if record.identity else None
    state = record.state
    if not supervised:
        state = ProcessState.LEFT_OVER if process else ProcessState.STOPPED
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
    records = {record.name: record for record in read_ledger(StateDir.at(state_dir)).processes}
    if name not in records:
        raise HeadraceError(
            "process_unknown",
            f"this stack has no process {name}, only {', '.join(sorted(records)) or 'none at all'}",
            where=str(state_dir),
            exit_code=2,
        )
    return records[name]
