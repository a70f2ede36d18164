"""The number of worker processes of a stack, changed while it runs."""

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.native.config import ServiceSpec, assign_ports, read_config, write_config
from headrace.native.info import StackInfo
from headrace.native.layout import StateDir, locked
from headrace.native.stack import wait_until_ready
from headrace.native.state_file import read_state, running_supervisor
from headrace.runtime.errors import Exit, HeadraceError

WORKERS_MAX = 16
_CHANGED_S_MAX = 60.0
_POLL_S = 0.05
_COPY = re.compile(r"-\d+$")


def scaled(services: Sequence[ServiceSpec], workers: int) -> tuple[ServiceSpec, ...]:
    """Return the services with so many processes of each worker; the second one is called `worker-media-2`."""
    return tuple(
        copy
        for service in services
        if not (_is_worker(service) and _COPY.search(service.name))
        for copy in (_copies(service, workers) if _is_worker(service) else (service,))
    )


def workers_of(services: Sequence[ServiceSpec]) -> int:
    """Return how many processes each worker has."""
    names = [_COPY.sub("", service.name) for service in services if _is_worker(service)]
    return max((names.count(name) for name in names), default=1)


def scale(state_dir: Path, workers: int, progress: Callable[[str], None]) -> StackInfo:
    """Start or stop worker processes of a running stack, and return once it serves; may be repeated.

    Kafka divides the partitions among the processes; what a stopped one had not finished is delivered again.

    Raises:
        HeadraceError: no stack runs here, or a process does not start.
    """
    state = StateDir.at(state_dir)
    with locked(state.root / "up.lock"):
        config, supervisor = read_config(state), running_supervisor(state)
        if config is None or supervisor is None:
            raise HeadraceError(
                "stack_not_running",
                "the stack is not running",
                where=str(state.root),
                hint=f"start it with `headrace up --workers {workers}`",
                exit_code=Exit.UNREACHABLE,
            )
        services = scaled(config.services, workers)
        fresh = [service.name for service in services if service.name not in config.ports]
        ports = {**config.ports, **assign_ports(fresh, {})}
        config = replace(config, services=services, ports=ports)
        write_config(state, config)
        supervisor.send_signal(signal.SIGHUP)
        _wait_until_changed(state, {service.name for service in services})
        wait_until_ready(config, state, progress)
        return StackInfo.of(config, state)


def _wait_until_changed(state: StateDir, names: set[str]) -> None:
    deadline = time.monotonic() + _CHANGED_S_MAX
    while True:
        workers = {process.name for process in read_state(state).processes if process.name.startswith("worker-")}
        if workers == {name for name in names if name.startswith("worker-")}:
            return
        if time.monotonic() > deadline:
            raise HeadraceError(
                "scale_failed",
                f"the supervisor did not change its processes within {_CHANGED_S_MAX:.0f} s",
                where=str(state.log("supervisor")),
                hint="`headrace logs supervisor` says why",
            )
        time.sleep(_POLL_S)


def _is_worker(service: ServiceSpec) -> bool:
    return service.args[0] == "worker"


def _copies(service: ServiceSpec, number: int) -> tuple[ServiceSpec, ...]:
    return (service, *(replace(service, name=f"{service.name}-{copy}") for copy in range(2, number + 1)))
