import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log

_PAUSE_S = 0.5

T = TypeVar("T")


class StoppedError(Exception):
    """The process was told to stop while it waited; `headrace.runtime.process.run` ends it well."""


async def wait_for(
    service: str, call: Callable[[], Awaitable[T]], *, wait_s_max: float, stop: asyncio.Event | None = None
) -> T:
    """Repeat a call while the service it needs is away, saying so once.

    Raises:
        HeadraceError: the service is still away after `wait_s_max` seconds, or refused; its own last error.
        Stopped: `stop` was set meanwhile.
    """
    deadline = time.monotonic() + wait_s_max
    said = False
    while True:
        try:
            return await _unless_stopped(call, stop)
        except HeadraceError as error:
            if error.exit_code != Exit.UNREACHABLE or time.monotonic() > deadline:
                raise
            if not said:
                get_log().info(Action.WAITING, service=service, address=error.where, up_to_s=wait_s_max)
                said = True
        await _unless_stopped(lambda: asyncio.sleep(_PAUSE_S), stop)


async def _unless_stopped(call: Callable[[], Awaitable[T]], stop: asyncio.Event | None) -> T:
    if stop is None:
        return await call()
    if stop.is_set():
        raise StoppedError
    calling, stopping = asyncio.ensure_future(call()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({calling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            raise StoppedError
        return calling.result()
    finally:
        calling.cancel()
        stopping.cancel()
