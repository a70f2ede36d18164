"""So many bytes a second, at the most."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from headrace.batch.archive.plan import wait_s


class Throttle:
    """Counts bytes, and waits where they come too fast; time and waiting are arguments."""

    def __init__(
        self,
        bytes_per_s: int,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._now_s = now_s
        self._sleep = sleep
        self._since_s = now_s()
        self._taken_bytes = 0

    async def take(self, number: int) -> None:
        """Count bytes that are about to be read, after waiting for those before them."""
        if delay_s := wait_s(self._taken_bytes, self._now_s() - self._since_s, self._bytes_per_s):
            await self._sleep(delay_s)
        self._taken_bytes += number
