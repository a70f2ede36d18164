"""Manners towards each host: so many requests at a time, and a pause between their beginnings."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

_HOSTS_KEPT = 1000


@dataclass(slots=True)
class _Host:
    turns: asyncio.Semaphore
    next_s: float = 0.0
    users: int = 0


class HostRateLimit:
    """Gives out turns. Of a host that nobody waits for, nothing is kept once its pause is over."""

    def __init__(
        self,
        requests_max: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests_max = requests_max
        self._clock = clock
        self._sleep = sleep
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str, pause_s: float) -> AsyncIterator[None]:
        """Wait for a turn and hold it; the next one begins `pause_s` seconds later at the earliest."""
        self._forget()
        one = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._requests_max)))
        one.users += 1
        try:
            async with one.turns:
                now_s = self._clock()
                starts_s = max(now_s, one.next_s)
                one.next_s = starts_s + pause_s
                await self._sleep(starts_s - now_s)
                yield
        finally:
            one.users -= 1

    def _forget(self) -> None:
        if len(self._hosts) < _HOSTS_KEPT:
            return
        now_s = self._clock()
        for name in [name for name, one in self._hosts.items() if not one.users and one.next_s <= now_s]:
            del self._hosts[name]
