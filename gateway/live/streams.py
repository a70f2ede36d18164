"""The live side of a gateway: its tail, and the streams that are open."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.live.tail import Tail
from gateway.problems import Code, Problem
from runtime.metrics import gateway_streams
from runtime.settings import Settings
from store.requests import Requests

RETRY_AFTER_S = 10


class Live:
    """Counts streams up to `gateway_streams_max`, and ends them when the gateway stops."""

    def __init__(self, settings: Settings, requests: Requests, stopping: asyncio.Event) -> None:
        """`stopping` is set once the gateway is to stop."""
        self._streams_max = settings.gateway_streams_max
        self._open = 0
        self.stopping = stopping
        self.tail = Tail(settings, requests)

    @contextmanager
    def stream(self, kind: str) -> Iterator[None]:
        """Hold a stream open: `events`, `sse` or `ingest`.

        Raises:
            Problem: there are too many, or the gateway stops (503).
        """
        if self._open >= self._streams_max or self.stopping.is_set():
            raise Problem(
                503, Code.UNAVAILABLE, "this gateway takes no more streams now",
                hint="try again soon, or another gateway", headers={"Retry-After": str(RETRY_AFTER_S)},
            )  # fmt: skip
        self._open += 1
        with gateway_streams.labels(kind).track_inprogress():
            try:
                yield
            finally:
                self._open -= 1
