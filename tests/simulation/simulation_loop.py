"""One thread, no real time: an event loop whose clock jumps to the next thing that is due, and processes that can die.

Whatever a process does runs in tasks that carry its name in their context. When it dies they are cancelled, and every
port refuses it from then on, so that no `finally` can reach the outside any more.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any


class CrashedError(BaseException):
    """Ends a process from inside a call that does not await."""


class Process:
    """One run of one process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.on_death: list[Callable[[], None]] = []

    def kill(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for task in self.tasks:
            task.cancel()
        for each in self.on_death:
            each()

    def check(self) -> None:
        if not self.alive:
            raise asyncio.CancelledError


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


def this_process() -> Process:
    process = PROCESS.get()
    assert process is not None, "only processes have ports"
    return process


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs everything in one order that only `delay_s` decides; threads are calls that happen a little later."""

    def __init__(self, delay_s: Callable[[], float]) -> None:
        self._now_s = 0.0
        self._delay_s = delay_s
        super().__init__(_Jump(self.jump))
        self.set_task_factory(_task)

    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        self._now_s += seconds

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        self.call_later(self._delay_s(), self._call, this_process(), future, lambda: func(*args))
        return future

    def _call(self, process: Process, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        if not process.alive:
            future.cancel()
            return
        try:
            outcome, failed = call(), None
        except CrashedError:
            process.kill()
            return
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            outcome, failed = None, error
        self.call_later(self._delay_s(), _settle, future, outcome, failed)


class _Jump(selectors.SelectSelector):
    """Waits for nothing: the time until the next timer passes at once."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits for something that cannot come"
        self._jump(max(timeout, 0.0))
        return []


def _task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Any = None) -> asyncio.Task[Any]:
    process = PROCESS.get() if context is None else context.get(PROCESS)
    task = asyncio.Task(coro, loop=loop, context=context)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None) if process.alive else None)
        if not process.alive:
            task.cancel()
    return task


def _settle(future: asyncio.Future[Any], outcome: Any, failed: Exception | None) -> None:
    if future.done():
        return
    if failed is not None:
        future.set_exception(failed)
    else:
        future.set_result(outcome)
