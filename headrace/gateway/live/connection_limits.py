"""The live side of a gateway: its tail, and the streams that are open."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.gateway.auth.principal import ANONYMOUS, Principal
from headrace.gateway.live.topic_tail import TopicTail
from headrace.gateway.problems import Problem, ProblemCode
from headrace.runtime.metrics import gateway_streams
from headrace.runtime.settings import Settings
from headrace.store.requests.requests import IngestRequests

FEED = "ingest"
RETRY_AFTER_S = 10
_LATER = {"Retry-After": str(RETRY_AFTER_S)}


class LiveConnections:
    """Counts streams, of all callers and of each, and ends them when the gateway stops."""

    def __init__(self, settings: Settings, requests: IngestRequests, stopping: asyncio.Event) -> None:
        """`stopping` is set once the gateway is to stop."""
        self._streams_max = settings.gateway_streams_max
        self._feeds_max = settings.gateway_feeds_max
        self._per_caller_max = (settings.gateway_streams_per_caller_max, settings.gateway_feeds_per_caller_max)
        self._kinds: Counter[str] = Counter()
        self._callers: Counter[tuple[str, bool]] = Counter()  # by who it is, and whether it is a feed
        self.stopping = stopping
        self.tail = TopicTail(settings, requests)

    @contextmanager
    def stream(self, kind: str, caller: Principal) -> Iterator[None]:
        """Hold a stream open: `events`, `sse` or `ingest`.

        Raises:
            Problem: the caller has too many (429), there are too many, or the gateway stops (503).
        """
        # Where nobody shows a key, all are the same caller.
        held, most = (caller.actor, kind == FEED), self._per_caller_max[kind == FEED]
        if caller is not ANONYMOUS and self._callers[held] >= most:
            raise Problem(
                429,
                ProblemCode.TOO_MANY_REQUESTS,
                f"a caller holds at most {most} streams of this kind here",
                hint="close one",
                headers=_LATER,
            )
        full = self._kinds.total() >= self._streams_max or (kind == FEED and self._kinds[FEED] >= self._feeds_max)
        if full or self.stopping.is_set():
            raise Problem(
                503,
                ProblemCode.UNAVAILABLE,
                "this gateway takes no more streams now",
                hint="try again soon, or another gateway",
                headers=_LATER,
            )
        self._kinds[kind] += 1
        self._callers[held] += 1
        with gateway_streams.labels(kind).track_inprogress():
            try:
                yield
            finally:
                self._kinds[kind] -= 1
                self._callers[held] -= 1
                self._callers += Counter()  # which forgets who has none
