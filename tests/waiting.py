"""Waiting for something to become true; the times are generous, because a machine may be busy."""

import asyncio
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds; fails after `seconds`, naming `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


async def until_async(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds, which may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if await result if asyncio.iscoroutine(result) else result:
            return
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        await asyncio.sleep(0.1)
