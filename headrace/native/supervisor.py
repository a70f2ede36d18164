"""The process that owns a stack's processes: `python -m headrace.native.supervisor STATE_DIR [OWNER_PID]`.

It starts them as their dependencies become ready, restarts what ends, and stops them in reverse order on SIGTERM. On
SIGHUP it reads which processes there should be, and starts or stops the difference. A
lock on a file makes it the only one for its state directory. When it is killed, the kernel sends each of its processes
the process's own stop signal (see `run_with_parent`), so the servers shut down cleanly and the service drains.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from headrace.native import kafka, minio, postgres, service, sites, valkey
from headrace.native.config import StackConfig, read_config
from headrace.native.disks import DiskWatch
from headrace.native.layout import LockHeldError, StateDir, locked
from headrace.native.managed_process import ManagedProcess, SupervisorContext
from headrace.native.process import ProcessSpec, dependency_levels
from headrace.native.state_file import StateFile, is_alive, write_state
from headrace.runtime.settings import load_settings

LOG_BYTES_MAX = 64 * 1024 * 1024
_OWNER_POLL_S = 0.5
_LOGS_POLL_S = 5.0
_LOCK_S_MAX = 5.0
"""A supervisor that was killed holds its lock until the kernel has closed its files."""


class Supervisor:
    """Runs the given processes until it is told to stop."""

    def __init__(
        self,
        processes: tuple[ProcessSpec, ...],
        state: StateDir,
        *,
        stack_id: str,
        log: Callable[[str], None],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """`watch` is called every few seconds, in a thread."""
        levels = dependency_levels(processes)
        context = self._context = SupervisorContext(stack_id=stack_id, on_change=self._write_state, log=log)
        self._tasks: list[asyncio.Task[None]] = []
        self._state = state
        self._stack_id = stack_id
        self._log = log
        self._watch = watch
        self._is_written = True
        self._pid: int | None = os.getpid()
        self.processes = {spec.name: ManagedProcess(spec, levels[spec.name], context) for spec in processes}

    async def run(self, stop: asyncio.Event) -> None:
        """Keep all of them running; returns when `stop` is set and all have ended."""
        self._write_state()
        for process in self.processes.values():
            self._keep_running(process)
        self._tasks.append(asyncio.create_task(self._look_after_files()))
        try:
            await stop.wait()
        finally:
            await self._stop_all(self._tasks)

    async def change(self, processes: tuple[ProcessSpec, ...]) -> None:
        """Stop what is not among these processes and start what is new; the others go on as they are."""
        wanted, levels = {spec.name: spec for spec in processes}, dependency_levels(processes)
        surplus = [process for name, process in self.processes.items() if name not in wanted]
        await asyncio.gather(*(process.stop() for process in surplus))
        fresh = [spec for name, spec in wanted.items() if name not in self.processes]
        self.processes = {name: process for name, process in self.processes.items() if name in wanted}
        for spec in fresh:
            self.processes[spec.name] = ManagedProcess(spec, levels[spec.name], self._context)
            self._keep_running(self.processes[spec.name])
        self._write_state()

    def _keep_running(self, process: ManagedProcess) -> None:
        dependencies = [self.processes[name] for name in process.spec.depends_on]
        self._tasks.append(asyncio.create_task(process.keep_running(dependencies)))

    async def _look_after_files(self) -> None:
        while True:
            logs = [process.spec.log for process in self.processes.values()] + [self._state.log("supervisor")]
            for log in logs:
                with suppress(OSError):  # a disk that is full now may have room the next time
                    await asyncio.to_thread(rotate_log, log)
            with suppress(OSError):
                await asyncio.to_thread(self._watch)
            if not self._is_written:
                self._write_state()
            await asyncio.sleep(_LOGS_POLL_S)

    async def _stop_all(self, tasks: list[asyncio.Task[None]]) -> None:
        for level in sorted({process.level for process in self.processes.values()}, reverse=True):
            await asyncio.gather(*(process.stop() for process in self.processes.values() if process.level == level))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pid = None
        self._write_state()

    def _write_state(self) -> None:
        """Write the state file; on a full disk later, since nothing may keep a process from being started again."""
        records = tuple(process.record for process in self.processes.values())
        try:
            write_state(self._state, StateFile(self._stack_id, self._pid, records))
            self._is_written = True
        except OSError as error:
            if self._is_written:
                self._log(f"WARNING: the state file cannot be written: {error.strerror}")
            self._is_written = False


def process_specs(config: StackConfig, state: StateDir) -> tuple[ProcessSpec, ...]:
    """Return every process of the stack, the servers first."""
    servers = [kafka.broker(config, state, node) for node in range(1, config.brokers + 1)]
    servers += [postgres.server(config, state), valkey.server(config, state)]
    if config.store == "minio":
        servers.append(minio.server(config, state))
    names = tuple(server.name for server in servers)
    return (*servers, *service.processes(config, state, names), *sites.processes(config, state, names))


def rotate_log(log: Path, bytes_max: int | None = None) -> bool:
    """Move a log larger than `bytes_max`, or else `LOG_BYTES_MAX`, to `<name>.log.1`; return whether it was moved.

    Its process writes through a descriptor that it was given, opened for appending, so the file is copied and then
    emptied. Lines that are written between the two are lost, which is better than a full disk.
    """
    try:
        if log.stat().st_size <= (LOG_BYTES_MAX if bytes_max is None else bytes_max):
            return False
    except FileNotFoundError:
        return False
    old = log.with_suffix(".log.1")
    old.unlink(missing_ok=True)
    old.touch(mode=0o600)
    shutil.copyfile(log, old)
    os.truncate(log, 0)
    return True


async def watch_owner(owner: psutil.Process, stop: asyncio.Event) -> None:
    """Set `stop` when the owner has ended: the stack of a test or a demo ends with it, even when it was killed."""
    while is_alive(owner):  # noqa: ASYNC110 - no event tells of the end of a process that is not a child
        await asyncio.sleep(_OWNER_POLL_S)
    stop.set()


async def _supervise(state: StateDir, config: StackConfig, owner: psutil.Process | None) -> bool:
    """Run the stack of the state directory; return whether it stopped because its owner has ended."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    owner_task = asyncio.create_task(watch_owner(owner, stop)) if owner else None
    disks = DiskWatch(state, config, load_settings().disk_free_bytes_min, _log)
    specs = process_specs(config, state)
    supervisor = Supervisor(specs, state, stack_id=config.stack_id, log=_log, watch=disks.check)
    changes: set[asyncio.Task[None]] = set()

    def change() -> None:
        """Follow stack.json, as after `headrace scale`."""
        if not stop.is_set() and (changed := read_config(state)) is not None:
            task = asyncio.create_task(supervisor.change(process_specs(changed, state)))
            changes.add(task)
            task.add_done_callback(changes.discard)

    loop.add_signal_handler(signal.SIGHUP, change)
    await supervisor.run(stop)
    if owner_task is not None:
        owner_task.cancel()
    return owner is not None and not is_alive(owner)


def _log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with suppress(OSError):  # the disk of the log may be full
        sys.stderr.write(f"{stamp} {text}\n")
        sys.stderr.flush()


def main() -> None:
    """Leave the caller's process tree, so that nobody has to wait for this process, and supervise."""
    started, report_started = os.pipe()
    if os.fork() != 0:
        # The caller goes on when the other side is written, or closed by the end of the supervisor.
        os.close(report_started)
        os.read(started, 1)
        os._exit(0)
    os.setsid()
    state = StateDir.at(Path(sys.argv[1]))
    owner = psutil.Process(int(sys.argv[2])) if len(sys.argv) > 2 else None
    config = read_config(state)
    if config is None:
        _log(f"{state.config} is missing or cannot be read")
        return
    try:
        with locked(state.root / "supervisor.lock", wait_s_max=_LOCK_S_MAX):
            write_state(state, StateFile(config.stack_id, os.getpid()))
            os.close(report_started)
            owner_ended = asyncio.run(_supervise(state, config, owner))
    except LockHeldError:
        _log("another supervisor runs in this state directory")
        return
    if owner_ended:
        with suppress(OSError):
            state.purge()


if __name__ == "__main__":
    main()
