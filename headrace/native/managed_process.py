"""One process kept running: started, watched until it serves, restarted when it ends, and stopped."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.native.process import ProcessSpec, RestartPolicy
from headrace.native.state_file import STACK_ID_VARIABLE, ProcessRecord, ProcessState
from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit

RESTART = Backoff(first_s=0.5, max_s=10.0)
HEALTHY_S = 30.0
"""A process that ran this long before it ended starts its backoff anew."""

QUOTA_RESTART = Backoff(first_s=60.0, max_s=600.0)
"""Its maximum is also how long a process has to run after its quota before that counts as over."""

_READY_POLL_S = 0.05
_COULD_NOT_START = 127
_RUN_WITH_PARENT = Path(__file__).with_name("run_with_parent.py")
_EXIT_MEANINGS: dict[int, str] = {
    Exit.OK: "ended by itself",
    Exit.USAGE: "wrong use, or a wrong setting",
    Exit.UNREACHABLE: "a needed service was not reachable",
    Exit.STUCK: "no progress although there was work",
    Exit.TRANSIENT: "a fault did not pass within its deadline",
    Exit.REVERTED: "the catalog went back in time: run `headrace recover`",
    Exit.QUOTA: "too many dead letters in a row",
    Exit.CRASHED: "a test ended it at a crash point",
    _COULD_NOT_START: "the program could not be started",
}


@dataclass(frozen=True, slots=True)
class SupervisorContext:
    """What a managed process needs from its supervisor."""

    stack_id: str
    on_change: Callable[[], None]
    log: Callable[[str], None]


class ManagedProcess:
    """One process and what is known of it; `ready` is set the first time that it serves."""

    def __init__(self, spec: ProcessSpec, level: int, context: SupervisorContext) -> None:
        self.spec = spec
        self.level = level
        self.ready = asyncio.Event()
        self.record = ProcessRecord(
            name=spec.name,
            state=ProcessState.WAITING,
            stop_signal=spec.stop_signal,
            log=str(spec.log),
            address=spec.address,
        )
        self._context = context
        self._running: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        """Held while the process is being started, so that `stop` never misses one that is about to exist."""

    async def keep_running(self, dependencies: "Sequence[ManagedProcess]") -> None:
        """Run until `stop` is called, or until a step that runs once has succeeded."""
        for dependency in dependencies:
            await dependency.ready.wait()
        backoff = RestartBackoff()
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if code is None or self._stopping.is_set():
                return
            self._kill_group()
            if code == 0 and self.spec.restart is RestartPolicy.ON_FAILURE:
                self._update(state=ProcessState.DONE, pid=None, ready_s=time.monotonic() - began)
                self.ready.set()
                return
            delay_s = backoff.next_delay_s(code, time.monotonic() - began)
            self._report_exit(code, delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def stop(self) -> None:
        """Send the stop signal; kill the process and its group if it has not ended after `stop_s_max` seconds."""
        self._stopping.set()
        async with self._starting:
            running = self._running
        if running is not None and running.returncode is None:
            self._update(state=ProcessState.STOPPING)
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(self.spec.stop_signal)
            try:
                await asyncio.wait_for(running.wait(), self.spec.stop_s_max)
            except TimeoutError:
                self._context.log(f"{self.spec.name}: did not stop in {self.spec.stop_s_max:.0f} s, killing it")
            self._kill_group()
            await running.wait()
        self._update(state=ProcessState.STOPPED, pid=None)

    async def _run_once(self) -> int | None:
        """Start it and wait for its end; None when it was stopped before it started."""
        began = time.monotonic()
        async with self._starting:
            if self._stopping.is_set():
                return None
            try:
                running = self._running = await self._start()
            except OSError as error:
                self._context.log(f"{self.spec.name}: could not be started: {error}")
                return _COULD_NOT_START
            self._update(state=ProcessState.STARTING, pid=running.pid, ready_s=None)
        ready_task = asyncio.create_task(self._watch_ready(began))
        try:
            return await running.wait()
        finally:
            ready_task.cancel()

    async def _start(self) -> asyncio.subprocess.Process:
        return await start_process(self.spec, {STACK_ID_VARIABLE: self._context.stack_id})

    async def _watch_ready(self, began: float) -> None:
        check = self.spec.ready
        if check is None:
            if self.spec.restart is RestartPolicy.ALWAYS:
                self._set_ready(began)
            return
        while True:
            with contextlib.suppress(OSError):
                if await asyncio.to_thread(check):
                    self._set_ready(began)
                    return
            await asyncio.sleep(_READY_POLL_S)

    def _set_ready(self, began: float) -> None:
        self._update(state=ProcessState.READY, ready_s=time.monotonic() - began)
        self.ready.set()

    def _report_exit(self, code: int, delay_s: float) -> None:
        reason = explain_exit(code)
        # `headrace status` shows a delay that somebody may notice.
        last_exit = f"{reason}, starts again {delay_s:.0f} s later" if delay_s > RESTART.max_s else reason
        restarts = self.record.restarts + 1
        self._update(state=ProcessState.RESTARTING, pid=None, restarts=restarts, last_exit=last_exit, ready_s=None)
        self._context.log(f"{self.spec.name}: {reason}; starting it again in {delay_s:.1f} s")

    def _kill_group(self) -> None:
        """Kill what the process leaves in its group. The number stays taken while any member lives, so it is ours."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, signal.SIGKILL)

    def _update(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        self._context.on_change()


async def start_process(spec: ProcessSpec, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """Start a process that ends with this one, in a session of its own; its output goes to its log.

    Raises OSError when it cannot be started.
    """
    account = f"{spec.user.uid}:{spec.user.gid}" if spec.user else "-"
    wrapper = (sys.executable, "-I", "-S", str(_RUN_WITH_PARENT), str(int(spec.stop_signal)), str(os.getpid()))
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # The kernel ties the parent death signal to the thread that forks: this is the event loop's, which is the
        # main thread of the supervisor and lives as long as it does.
        return await asyncio.create_subprocess_exec(
            *wrapper,
            account,
            *spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec.cwd,
            env={**os.environ, **spec.env, **environment},
            start_new_session=True,
        )
    finally:
        os.close(log)


class RestartBackoff:
    """Decides how long to wait before a process is restarted: twice as long each time, within bounds.

    A process that exceeded its dead-letter quota waits long: it would go on where it ended, and turn a whole topic
    into dead letters one quota at a time, faster than anybody can look. So does one that found an older catalog.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._quota_failures = 0

    def next_delay_s(self, code: int, ran_s: float) -> float:
        """Return the seconds to wait after the process ended with `code`, having run for `ran_s` seconds."""
        if code in {Exit.QUOTA, Exit.REVERTED}:
            self._quota_failures = 1 if ran_s > QUOTA_RESTART.max_s else self._quota_failures + 1
            return QUOTA_RESTART.delay_s(self._quota_failures)
        self._failures = 1 if ran_s > HEALTHY_S else self._failures + 1
        return RESTART.delay_s(self._failures)


def explain_exit(code: int) -> str:
    """Explain an exit code in words; negative codes are signals, as in Python's subprocess module."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    meaning = _EXIT_MEANINGS.get(code)
    return f"exit {code} ({meaning})" if meaning else f"exit {code}"
