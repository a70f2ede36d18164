"""The live connections of a gateway: the tail that serves them, and the limits on their number."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.gateway.auth.principal import ANONYMOUS, Principal
from headrace.gateway.live.topic_tail import TopicTail
from headrace.gateway.problems import Problem, ProblemCode
from headrace.runtime.metrics import gateway_streams
from headrace.runtime.settings import Settings
from headrace.store.requests.ingest_requests import IngestRequests

FEED = "ingest"
RETRY_AFTER_S = 10
_RETRY_HEADERS = {"Retry-After": str(RETRY_AFTER_S)}


class LiveConnections:
    """Limits the streams of all callers and of each; `stopping` is set once the gateway shuts down."""

    def __init__(self, settings: Settings, requests: IngestRequests, stopping: asyncio.Event) -> None:
        """Start without streams."""
        self._streams_max = settings.gateway_streams_max
        self._feeds_max = settings.gateway_feeds_max
        self._streams_per_caller_max = settings.gateway_streams_per_caller_max
        self._feeds_per_caller_max = settings.gateway_feeds_per_caller_max
        self._by_kind: Counter[str] = Counter()
        self._by_caller: Counter[tuple[str, bool]] = Counter()  # by actor, and whether it is a feed
        self.stopping = stopping
        self.tail = TopicTail(settings, requests)

    @contextmanager
    def stream(self, kind: str, principal: Principal) -> Iterator[None]:
        """Count a stream while it is open: `events`, `sse` or `ingest`.

        Raises:
            Problem: the caller has too many (429), the gateway has too many or shuts down (503).
        """
        is_feed = kind == FEED
        # Without authentication all callers are the same principal, so only the gateway's limits apply.
        counted, per_caller_max = (principal.actor, is_feed), self._per_caller_max(is_feed=is_feed)
        if principal is not ANONYMOUS and self._by_caller[counted] >= per_caller_max:
            raise Problem(
                429,
                ProblemCode.TOO_MANY_REQUESTS,
                f"this key or token already has {per_caller_max} streams of this kind on this gateway",
                hint="close one of them",
                headers=_RETRY_HEADERS,
            )
        if self.stopping.is_set() or self._is_full(is_feed=is_feed):
            raise Problem(
                503,
                ProblemCode.UNAVAILABLE,
                "this gateway accepts no more streams at the moment",
                hint="retry later, or use another gateway",
                headers=_RETRY_HEADERS,
            )
        self._by_kind[kind] += 1
        self._by_caller[counted] += 1
        with gateway_streams.labels(kind).track_inprogress():
            try:
                yield
            finally:
                self._by_kind[kind] -= 1
                self._by_caller[counted] -= 1
                self._by_caller += Counter()  # removes the zero counts

    def _per_caller_max(self, *, is_feed: bool) -> int:
        return self._feeds_per_caller_max if is_feed else self._streams_per_caller_max

    def _is_full(self, *, is_feed: bool) -> bool:
        feeds_full = is_feed and self._by_kind[FEED] >= self._feeds_max
        return feeds_full or self._by_kind.total() >= self._streams_max
