import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runtime.errors import Exit, HeadraceError
from runtime.logs import Action, get_log

_PAUSE_S = 0.5

T = TypeVar("T")


async def wait_for(service: str, call: Callable[[], Awaitable[T]], *, wait_s_max: float) -> T:
    """Repeat a call while the service it needs is away, saying so once.

    Raises:
        HeadraceError: the service is still away after `wait_s_max` seconds, or refused; its own last error.
    """
    deadline = time.monotonic() + wait_s_max
    said = False
    while True:
        try:
            return await call()
        except HeadraceError as error:
            if error.exit_code != Exit.UNREACHABLE or time.monotonic() > deadline:
                raise
            if not said:
                get_log().info(Action.WAITING, service=service, address=error.where, up_to_s=wait_s_max)
                said = True
            await asyncio.sleep(_PAUSE_S)
