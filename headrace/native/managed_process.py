"""One process kept running: started, watched until it serves, started again when it ends, and stopped."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from headrace.native.backoff import RESTART_DELAY_S_MAX, Backoff
from headrace.native.exits import explain
from headrace.native.process import Process, Restart
from headrace.native.state_file import STACK_ID_VARIABLE, ProcessIdentity, ProcessRecord, ProcessState

_READY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a child is given by its supervisor."""

    stack_id: str
    changed: Callable[[], None]
    say: Callable[[str], None]


class ManagedProcess:
    """One process and what is known of it; `ready` is set the first time that it serves."""

    def __init__(self, process: Process, level: int, surroundings: Surroundings) -> None:
        self.process = process
        self.level = level
        self.ready = asyncio.Event()
        self.record = ProcessRecord(
            name=process.name,
            state=ProcessState.WAITING,
            level=level,
            stop_signal=process.stop_signal,
            stop_s_max=process.stop_s_max,
            log=str(process.log),
            address=process.address,
        )
        self._around = surroundings
        self._running: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        """Held while the process is being started, so that `stop` never misses one that is about to exist."""

    async def keep_running(self, needs: "list[ManagedProcess]") -> None:
        """Run until `stop` is called, or until a step that runs once has succeeded."""
        for need in needs:
            await need.ready.wait()
        pauses = Backoff()
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if code is None or self._stopping.is_set():
                return
            self._kill_group()
            if code == 0 and self.process.restart is Restart.ON_FAILURE:
                self._note(state=ProcessState.DONE, identity=None, ready_s=time.monotonic() - began)
                self.ready.set()
                return
            delay_s = pauses.after(code, time.monotonic() - began)
            self._say_ended(code, delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def stop(self) -> None:
        """End it: its own signal first, and the kill signal for it and its group when its time is up."""
        self._stopping.set()
        async with self._starting:
            running = self._running
        if running is not None and running.returncode is None:
            self._note(state=ProcessState.STOPPING)
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(self.process.stop_signal)
            try:
                await asyncio.wait_for(running.wait(), self.process.stop_s_max)
            except TimeoutError:
                self._around.say(f"{self.process.name}: did not stop in {self.process.stop_s_max:.0f} s, killing it")
            self._kill_group()
            await running.wait()
        self._note(state=ProcessState.STOPPED, identity=None)

    async def _run_once(self) -> int | None:
        """Start it and wait for its end; None when it was stopped before it started."""
        began = time.monotonic()
        async with self._starting:
            if self._stopping.is_set():
                return None
            try:
                running = self._running = await self._start()
            except OSError as error:
                self._around.say(f"{self.process.name}: cannot be started: {error}")
                return 127
            with contextlib.suppress(psutil.Error):
                self._note(
                    state=ProcessState.STARTING,
                    identity=ProcessIdentity.of(running.pid, self.process.argv),
                    ready_s=None,
                )
        watching = asyncio.create_task(self._watch_ready(began))
        try:
            return await running.wait()
        finally:
            watching.cancel()

    async def _start(self) -> asyncio.subprocess.Process:
        process = self.process
        descriptor = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *process.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=process.cwd,
                env={**os.environ, **process.env, STACK_ID_VARIABLE: self._around.stack_id},
                start_new_session=True,
                user=process.user.uid if process.user else None,
                group=process.user.gid if process.user else None,
                extra_groups=[] if process.user else None,
            )
        finally:
            os.close(descriptor)

    async def _watch_ready(self, began: float) -> None:
        check = self.process.ready
        if check is None:
            if self.process.restart is Restart.ALWAYS:
                self._note_ready(began)
            return
        while True:
            with contextlib.suppress(OSError):
                if await asyncio.to_thread(check):
                    self._note_ready(began)
                    return
            await asyncio.sleep(_READY_POLL_S)

    def _note_ready(self, began: float) -> None:
        self._note(state=ProcessState.READY, ready_s=time.monotonic() - began)
        self.ready.set()

    def _say_ended(self, code: int, delay_s: float) -> None:
        reason = explain(code)
        # A pause that somebody may notice shows in `headrace status` too.
        shown = f"{reason}, starts again {delay_s:.0f} s later" if delay_s > RESTART_DELAY_S_MAX else reason
        self._note(
            state=ProcessState.RESTARTING,
            identity=None,
            restarts=self.record.restarts + 1,
            last_exit=shown,
            ready_s=None,
        )
        self._around.say(f"{self.process.name}: {reason}; starting it again in {delay_s:.1f} s")

    def _kill_group(self) -> None:
        """End what the process leaves in its group. The number stays taken while any member lives, so it is ours."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, signal.SIGKILL)

    def _note(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        self._around.changed()
