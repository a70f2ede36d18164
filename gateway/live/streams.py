"""The live side of a gateway: its tail, and the streams that are open."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.access.callers import ANYBODY, Caller
from gateway.live.tail import Tail
from gateway.problems import Code, Problem
from runtime.metrics import gateway_streams
from runtime.settings import Settings
from store.requests import Requests

FEED = "ingest"
RETRY_AFTER_S = 10
_LATER = {"Retry-After": str(RETRY_AFTER_S)}


class Live:
    """Counts streams, of all callers and of each, and ends them when the gateway stops."""

    def __init__(self, settings: Settings, requests: Requests, stopping: asyncio.Event) -> None:
        """`stopping` is set once the gateway is to stop."""
        self._streams_max = settings.gateway_streams_max
        self._feeds_max = settings.gateway_feeds_max
        self._per_caller_max = (settings.gateway_streams_per_caller_max, settings.gateway_feeds_per_caller_max)
        self._kinds: Counter[str] = Counter()
        self._callers: Counter[tuple[str, bool]] = Counter()  # by who it is, and whether it is a feed
        self.stopping = stopping
        self.tail = Tail(settings, requests)

    @contextmanager
    def stream(self, kind: str, caller: Caller) -> Iterator[None]:
        """Hold a stream open: `events`, `sse` or `ingest`.

        Raises:
            Problem: the caller has too many (429), there are too many, or the gateway stops (503).
        """
        # Where nobody shows a key, all are the same caller.
        held, most = (caller.actor, kind == FEED), self._per_caller_max[kind == FEED]
        if caller is not ANYBODY and self._callers[held] >= most:
            raise Problem(
                429, Code.TOO_MANY_REQUESTS, f"a caller holds at most {most} streams of this kind here",
                hint="close one", headers=_LATER,
            )  # fmt: skip
        full = self._kinds.total() >= self._streams_max or (kind == FEED and self._kinds[FEED] >= self._feeds_max)
        if full or self.stopping.is_set():
            raise Problem(
                503, Code.UNAVAILABLE, "this gateway takes no more streams now",
                hint="try again soon, or another gateway", headers=_LATER,
            )  # fmt: skip
        self._kinds[kind] += 1
        self._callers[held] += 1
        with gateway_streams.labels(kind).track_inprogress():
            try:
                yield
            finally:
                self._kinds[kind] -= 1
                self._callers[held] -= 1
                self._callers += Counter()  # which forgets who has none
