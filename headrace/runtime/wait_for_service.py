import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log

_PAUSE_S = 0.5

T = TypeVar("T")


class StoppedError(Exception):
    """Raised when the process is stopped while it waits; `headrace.runtime.process.run` then exits with 0."""


async def wait_for(
    service: str, call: Callable[[], Awaitable[T]], *, wait_s_max: float, stop: asyncio.Event | None = None
) -> T:
    """Repeat a call while its service is unreachable, and log the wait once.

    Raises:
        HeadraceError: the last error of the call, if the service is unreachable for `wait_s_max` seconds or refuses.
        StoppedError: `stop` was set meanwhile.
    """
    deadline = time.monotonic() + wait_s_max
    is_logged = False
    while True:
        try:
            return await _unless_stopped(call, stop)
        except HeadraceError as error:
            if error.exit_code != Exit.UNREACHABLE or time.monotonic() > deadline:
                raise
            if not is_logged:
                get_log().info(Action.WAITING, service=service, address=error.where, up_to_s=wait_s_max)
                is_logged = True
        await _unless_stopped(lambda: asyncio.sleep(_PAUSE_S), stop)


async def _unless_stopped(call: Callable[[], Awaitable[T]], stop: asyncio.Event | None) -> T:
    if stop is None:
        return await call()
    if stop.is_set():
        raise StoppedError
    call_task, stop_task = asyncio.ensure_future(call()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({call_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
        if stop_task.done():
            raise StoppedError
        return call_task.result()
    finally:
        call_task.cancel()
        stop_task.cancel()
