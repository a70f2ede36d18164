"""Answers to frequent reads, kept for a few seconds: in Redis where there is one, so that gateways share them.

It is only ever a shortcut: while Redis is away nothing is kept, and every read goes to the catalog. What must never be
stale, such as the state of a request, is not kept here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.runtime.logs import Action, get_log
from headrace.schemas.limits import MIB

LIST_S = 3  # how long a list may be behind the catalog
ANSWER_BYTES_MAX = 1 * MIB  # a larger answer is not kept
MEMORY_BYTES_MAX = 16 * MIB
_REDIS_S_MAX = 0.5  # a shortcut that takes longer is none
_AWAY_S = 5.0  # Redis is left alone for so long after it did not answer


class Cache:
    """Keeps bytes under a name for some seconds. No method raises because Redis is away."""

    def __init__(self, redis_url: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._memory: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._memory_bytes = 0
        self._away_until_s = 0.0
        self._redis: Redis | None = None
        if redis_url:
            self._redis = Redis.from_url(
                redis_url, socket_timeout=_REDIS_S_MAX, socket_connect_timeout=_REDIS_S_MAX, retry=None
            )

    async def get(self, name: str) -> bytes | None:
        """Return what is kept under a name; None where there is nothing, or it is too old."""
        if self._redis is None:
            return self._recall(name)
        if self._clock_s() < self._away_until_s:
            return None
        try:
            found = await self._redis.get(name)
        except (RedisError, OSError) as error:
            self._leave_alone(error)
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, name: str, data: bytes, seconds: int) -> None:
        """Keep bytes under a name for so long."""
        if len(data) > ANSWER_BYTES_MAX:
            return
        if self._redis is None:
            self._remember(name, data, seconds)
        elif self._clock_s() >= self._away_until_s:
            try:
                await self._redis.set(name, data, ex=seconds)
            except (RedisError, OSError) as error:
                self._leave_alone(error)

    async def close(self) -> None:
        """End the connections."""
        if self._redis is not None:
            await self._redis.aclose()

    def _leave_alone(self, error: Exception) -> None:
        self._away_until_s = self._clock_s() + _AWAY_S
        get_log().warning(Action.RETRYING, service="redis", why=type(error).__name__)

    def _recall(self, name: str) -> bytes | None:
        until_s, data = self._memory.get(name, (0.0, b""))
        return data if self._clock_s() < until_s else None

    def _remember(self, name: str, data: bytes, seconds: int) -> None:
        self._forget(name)
        self._memory[name] = (self._clock_s() + seconds, data)
        self._memory_bytes += len(data)
        # The oldest goes first: it ends first too, for all are kept for about as long.
        while self._memory_bytes > MEMORY_BYTES_MAX:
            self._forget(next(iter(self._memory)))

    def _forget(self, name: str) -> None:
        if (kept := self._memory.pop(name, None)) is not None:
            self._memory_bytes -= len(kept[1])


def name_of(what: str, *parts: object) -> str:
    """Return the name of an answer. It follows from everything that the answer depends on, the caller's reach too."""
    return f"headrace:{what}:{sha256(repr(parts).encode()).hexdigest()}"
