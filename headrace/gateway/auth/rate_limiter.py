"""How often a caller may call, counted in Redis where there is one, so that gateways count together.

While Redis is away each gateway counts for itself: it is a limit that is looser for a while, and nobody is locked out.
"""

import time
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string
from redis.exceptions import RedisError

from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import MIB, Settings

_REDIS_S_MAX = 1.0
_AWAY_S = 5.0  # Redis is left alone for so long after it did not answer


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One limit. Few events are counted one by one; of many, only how many came in this window and the one before."""

    name: str
    item: RateLimitItem
    exact: bool = False


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits that the settings set."""

    requests: RateLimit
    ingest: RateLimit
    upload_mib: RateLimit

    @classmethod
    def of(cls, settings: Settings) -> "RateLimits":
        """Read them."""
        return cls(
            RateLimit("requests", RateLimitItemPerMinute(settings.gateway_requests_per_minute)),
            RateLimit("ingest", RateLimitItemPerMinute(settings.gateway_ingest_per_minute), exact=True),
            RateLimit("upload_mib", RateLimitItemPerHour(settings.gateway_upload_mib_per_hour)),
        )


class RequestLimiter:
    """Counts the requests and bytes of each caller against `limits`."""

    def __init__(self, redis_url: str, limits: RateLimits) -> None:
        self.limits = limits
        self._local = _Counters(MemoryStorage())
        self._shared: _Counters | None = None
        self._away_until_s = 0.0
        if redis_url:
            storage: Any = storage_from_string(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="headrace",
                socket_timeout=_REDIS_S_MAX,
                socket_connect_timeout=_REDIS_S_MAX,
            )
            self._shared = _Counters(storage)

    async def hit(self, limit: RateLimit, who: str, cost: int = 1) -> int | None:
        """Count an event; returns None where it is within the limit, else the seconds to wait."""
        if self._shared is not None and time.monotonic() >= self._away_until_s:
            try:
                return await self._shared.hit(limit, who, cost)
            except (RedisError, OSError) as error:
                self._away_until_s = time.monotonic() + _AWAY_S
                get_log().warning(Action.RETRYING, service="redis", why=type(error).__name__)
        return await self._local.hit(limit, who, cost)


class _Counters:
    def __init__(self, storage: Storage) -> None:
        self._exact: RateLimiter = MovingWindowRateLimiter(storage)
        self._many: RateLimiter = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, limit: RateLimit, who: str, cost: int) -> int | None:
        counting = self._exact if limit.exact else self._many
        # A cost beyond the whole limit would never be let through, however long one waits.
        if await counting.hit(limit.item, limit.name, who, cost=min(cost, limit.item.amount)):
            return None
        window = await counting.get_window_stats(limit.item, limit.name, who)
        return max(1, round(window.reset_time - time.time() + 0.5))


def mebibytes(size_bytes: int) -> int:
    """Return bytes as begun mebibytes."""
    return -(-size_bytes // MIB)
