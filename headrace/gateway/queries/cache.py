"""Cache frequent reads for a few seconds, in Redis where it is configured, so that gateways share them.

While Redis is unavailable nothing is cached, and every read goes to the catalog. Responses that must be current, such
as the status of a request, are not cached.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.runtime.logs import Action, get_log
from headrace.schemas.limits import MIB

LIST_S = 3  # maximum age of a list
VALUE_BYTES_MAX = 1 * MIB  # larger values are not cached
MEMORY_BYTES_MAX = 16 * MIB
_REDIS_S_MAX = 0.5  # a slower cache is of no use
_RETRY_AFTER_S = 5.0  # before Redis is asked again after a failure


class Cache:
    """Caches bytes under a key. An unavailable Redis raises no exception."""

    def __init__(self, redis_url: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._memory: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._memory_bytes = 0
        self._retry_at_s = 0.0
        self._redis: Redis | None = None
        if redis_url:
            self._redis = Redis.from_url(
                redis_url, socket_timeout=_REDIS_S_MAX, socket_connect_timeout=_REDIS_S_MAX, retry=None
            )

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None where it is missing or has expired."""
        if self._redis is None:
            return self._get_local(key)
        if self._clock_s() < self._retry_at_s:
            return None
        try:
            value = await self._redis.get(key)
        except (RedisError, OSError) as error:
            self._pause(error)
            return None
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, data: bytes, seconds: int) -> None:
        """Cache a value for some seconds."""
        if len(data) > VALUE_BYTES_MAX:
            return
        if self._redis is None:
            self._put_local(key, data, seconds)
        elif self._clock_s() >= self._retry_at_s:
            try:
                await self._redis.set(key, data, ex=seconds)
            except (RedisError, OSError) as error:
                self._pause(error)

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()

    def _pause(self, error: Exception) -> None:
        self._retry_at_s = self._clock_s() + _RETRY_AFTER_S
        get_log().warning(Action.RETRYING, service="redis", why=type(error).__name__)

    def _get_local(self, key: str) -> bytes | None:
        until_s, data = self._memory.get(key, (0.0, b""))
        return data if self._clock_s() < until_s else None

    def _put_local(self, key: str, data: bytes, seconds: int) -> None:
        self._remove(key)
        self._memory[key] = (self._clock_s() + seconds, data)
        self._memory_bytes += len(data)
        # The oldest is evicted first.
        while self._memory_bytes > MEMORY_BYTES_MAX:
            self._remove(next(iter(self._memory)))

    def _remove(self, key: str) -> None:
        if (removed := self._memory.pop(key, None)) is not None:
            self._memory_bytes -= len(removed[1])


def cache_key(resource: str, *parts: object) -> str:
    """Return the key of a response; `parts` are everything that it depends on, including the principal's scopes."""
    return f"headrace:{resource}:{sha256(repr(parts).encode()).hexdigest()}"
