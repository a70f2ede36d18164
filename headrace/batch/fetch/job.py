"""One URL from its text to its record: fetched, looked at, stored, each step tried again where that may help."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.batch.fetch.asset import OFFSET_BITS, AssetOrigin, asset_of
from headrace.batch.fetch.asset_store import AssetStore
from headrace.batch.fetch.errors import IngestError
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.outcome import FetchResult
from headrace.batch.fetch.policy import FetchPolicy
from headrace.batch.fetch.url import WebUrl
from headrace.runtime.backoff import Backoff

STORE_ATTEMPTS_MAX = 6  # with pauses of 1, 2, 4, 8 and 16 s: a server that is started anew is back by then

T = TypeVar("T")


def pause_s(attempt: int, *, asked_s: float | None, rules: FetchPolicy, draw: float) -> float:
    """Return how long to wait after the attempt of this number, from 1; `draw` is random, from 0 to 1.

    Pauses double, and are drawn from their upper half, so that those who failed together do not come again together.
    What the host asked for is kept to, up to the longest pause.
    """
    backoff = Backoff(rules.retry_delay_s, rules.retry_delay_s_max)
    return backoff.delay_s(attempt, jitter=draw, at_least_s=asked_s or 0.0)


class FetchJob:
    """Ingests URLs, one a call, many at a time. `random_bits` and `now_us` are the world's."""

    def __init__(
        self,
        fetcher: Fetcher,
        assets: AssetStore,
        rules: FetchPolicy,
        *,
        now_us: Callable[[], int],
        random_bits: Callable[[int], int],
    ) -> None:
        self._fetcher = fetcher
        self._assets = assets
        self._rules = rules
        self._now_us = now_us
        self._random_bits = random_bits

    async def ingest(
        self, target: WebUrl, about: AssetOrigin, note: Callable[[int, FetchResult], None] | None = None
    ) -> FetchResult:
        """Return what a URL became; `note` is told its sighting's offset and its result before they are committed.

        Raises:
            IngestError: it was not ingested, and nothing of it is in the catalog.
        """
        about.check()
        fetched = await self._retried(lambda: self._fetcher.fetch(target), self._rules.attempts_max)
        # Hashing megabytes would hold up the other fetches.
        asset = await asyncio.to_thread(asset_of, fetched.body, target.shown, about, target.origin)
        offset, at_us = self._random_bits(OFFSET_BITS), self._now_us()
        result = FetchResult(
            id=str(asset.record_id),
            s3_key=asset.key,
            checksum=asset.digest,
            duplicate=False,
            url=asset.url,
            license=about.license,
            source=about.source,
            media_type=asset.media_type,
            size_bytes=asset.size_bytes,
        )
        if note is not None:
            note(offset, result)
        stored = await self._retried(
            lambda: self._assets.store(asset, fetched.body, offset=offset, at_us=at_us), STORE_ATTEMPTS_MAX
        )
        return FetchResult(**(result.as_dict() | {"s3_key": stored.store_key, "duplicate": stored.duplicate}))

    async def _retried(self, step: Callable[[], Awaitable[T]], attempts_max: int) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await step()
            except IngestError as error:
                if not error.may_pass or attempt >= attempts_max:
                    raise
                draw = self._random_bits(16) / 65_536
                asked_s = error.retry_after_s
            await asyncio.sleep(pause_s(attempt, asked_s=asked_s, rules=self._rules, draw=draw))
