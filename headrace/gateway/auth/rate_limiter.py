"""Limit the rate of requests and uploads, across gateways where Redis is configured.

While Redis is unavailable each gateway counts alone: the limits are looser, and no client is locked out.
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
_RETRY_AFTER_S = 5.0  # before Redis is asked again after a failure


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A limit. `exact` counts each event in a moving window; otherwise two fixed windows are weighted."""

    name: str
    item: RateLimitItem
    exact: bool = False


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of the settings."""

    requests: RateLimit
    guesses: RateLimit
    ingest: RateLimit
    upload_mib: RateLimit

    @classmethod
    def of(cls, settings: Settings) -> "RateLimits":
        """Read the limits from the settings."""
        return cls(
            RateLimit("requests", RateLimitItemPerMinute(settings.gateway_requests_per_minute)),
            RateLimit("guesses", RateLimitItemPerMinute(settings.gateway_requests_per_minute)),
            RateLimit("ingest", RateLimitItemPerMinute(settings.gateway_ingest_per_minute), exact=True),
            RateLimit("upload_mib", RateLimitItemPerHour(settings.gateway_upload_mib_per_hour)),
        )


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a limit leaves to a subject: whether the event was within it, how many are left, and the seconds to wait."""

    limit: RateLimit
    within: bool
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        """Return the header fields that tell it (draft-ietf-httpapi-ratelimit-headers-10)."""
        limit = self.limit
        return {
            "RateLimit-Policy": f'"{limit.name}";q={limit.item.amount};w={limit.item.get_expiry()}',
            "RateLimit": f'"{limit.name}";r={self.remaining};t={self.reset_s}',
        }


class RequestLimiter:
    """Counts the requests and bytes of each caller against `limits`."""

    def __init__(self, redis_url: str, limits: RateLimits) -> None:
        self.limits = limits
        self._local = _Counters(MemoryStorage())
        self._shared: _Counters | None = None
        self._retry_at_s = 0.0
        if redis_url:
            storage: Any = storage_from_string(
                f"async+{redis_url}",
                implementation="redispy",
                key_prefix="headrace",
                socket_timeout=_REDIS_S_MAX,
                socket_connect_timeout=_REDIS_S_MAX,
            )
            self._shared = _Counters(storage)

    async def hit(self, limit: RateLimit, subject: str, cost: int = 1) -> Allowance:
        """Count an event, and return what is left; a cost of 0 counts nothing."""
        if self._shared is not None and time.monotonic() >= self._retry_at_s:
            try:
                return await self._shared.hit(limit, subject, cost)
            except (RedisError, OSError) as error:
                self._retry_at_s = time.monotonic() + _RETRY_AFTER_S
                get_log().warning(Action.RETRYING, service="redis", why=type(error).__name__)
        return await self._local.hit(limit, subject, cost)


class _Counters:
    def __init__(self, storage: Storage) -> None:
        self._exact: RateLimiter = MovingWindowRateLimiter(storage)
        self._approximate: RateLimiter = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, limit: RateLimit, subject: str, cost: int) -> Allowance:
        limiter = self._exact if limit.exact else self._approximate
        # A cost above the limit would never be allowed.
        cost = min(cost, limit.item.amount)
        counted = not cost or await limiter.hit(limit.item, limit.name, subject, cost=cost)
        window = await limiter.get_window_stats(limit.item, limit.name, subject)
        within = counted and (cost > 0 or window.remaining > 0)
        reset_s = max(1, round(window.reset_time - time.time() + 0.5))
        return Allowance(limit, within, max(0, window.remaining) if within else 0, reset_s)


def mebibytes(size_bytes: int) -> int:
    """Return a size in mebibytes, rounded up."""
    return -(-size_bytes // MIB)
