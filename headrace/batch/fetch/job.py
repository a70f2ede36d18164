"""Ingests one URL: fetches it, validates the bytes and stores them, retrying each step where that may help."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from headrace.batch.fetch.asset import OFFSET_BITS, Asset, AssetOrigin, asset_of, batch_of
from headrace.batch.fetch.errors import STORING_ERRORS, IngestError, from_storage_error
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.outcome import FetchResult
from headrace.batch.fetch.policy import FetchPolicy
from headrace.batch.fetch.url import WebUrl
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.errors import BlobsCollectedError

STORE_ATTEMPTS_MAX = 6  # with delays of 1, 2, 4, 8 and 16 s, long enough for a server to restart
_COLLECTED_TIMES_MAX = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """The key of the stored bytes, and whether the catalog already had them."""

    store_key: str
    duplicate: bool


class AssetStore:
    """Stores fetched bytes: first the blob, then its rows in one transaction. Calls may be repeated."""

    def __init__(self, blobs: Blobs, catalog: Catalog) -> None:
        self._blobs = blobs
        self._catalog = catalog

    async def store(self, asset: Asset, body: bytes, *, offset: int, at_us: int) -> StoredAsset:
        """Make bytes and rows durable; the relay announces new records. May be repeated with the same offset and time.

        Raises:
            StoreFailedError, CatalogFailedError: nothing of it is in the catalog.
        """
        try:
            for _ in range(_COLLECTED_TIMES_MAX):
                try:
                    return await self._store_once(asset, body, offset, at_us)
                except BlobsCollectedError as error:
                    collected = error
                    await asyncio.sleep(1)
            raise from_storage_error(collected)
        except STORING_ERRORS as error:
            raise from_storage_error(error) from None

    async def _store_once(self, asset: Asset, body: bytes, offset: int, at_us: int) -> StoredAsset:
        collection_epoch = await self._catalog.collection_epoch()
        digest = bytes.fromhex(asset.digest)
        known = (await self._catalog.known_blobs([digest])).get(digest)
        if known is None:
            await self._blobs.put(asset.key, body, media_type=asset.media_type)
        batch = batch_of(asset, offset=offset, at_us=at_us, known=known, collection_epoch=collection_epoch)
        committed = await self._catalog.commit(batch)
        return StoredAsset(known.store_key if known else asset.key, duplicate=not committed.new_records)


class FetchJob:
    """Ingests URLs concurrently, one per call; the clock and the random source are arguments."""

    def __init__(
        self,
        fetcher: Fetcher,
        assets: AssetStore,
        policy: FetchPolicy,
        *,
        now_us: Callable[[], int],
        random_bits: Callable[[int], int],
    ) -> None:
        self._fetcher = fetcher
        self._assets = assets
        self._policy = policy
        self._now_us = now_us
        self._random_bits = random_bits

    async def ingest(
        self, target: WebUrl, origin: AssetOrigin, before_commit: Callable[[int, FetchResult], None] | None = None
    ) -> FetchResult:
        """Ingest a URL and return its result; `before_commit` receives its sighting's offset and the result.

        Raises:
            IngestError: nothing of it is in the catalog.
        """
        origin.check()
        fetched = await self._retry(lambda: self._fetcher.fetch(target), self._policy.attempts_max)
        # In a thread, because hashing megabytes would block the other fetches.
        asset = await asyncio.to_thread(asset_of, fetched.body, target.redacted, origin, target.origin)
        offset, at_us = self._random_bits(OFFSET_BITS), self._now_us()
        result = FetchResult(
            id=str(asset.record_id),
            s3_key=asset.key,
            checksum=asset.digest,
            duplicate=False,
            url=asset.url,
            license=origin.license,
            source=origin.source,
            media_type=asset.media_type,
            size_bytes=asset.size_bytes,
        )
        if before_commit is not None:
            before_commit(offset, result)
        stored = await self._retry(
            lambda: self._assets.store(asset, fetched.body, offset=offset, at_us=at_us), STORE_ATTEMPTS_MAX
        )
        return FetchResult(**(result.as_dict() | {"s3_key": stored.store_key, "duplicate": stored.duplicate}))

    async def _retry(self, step: Callable[[], Awaitable[T]], attempts_max: int) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await step()
            except IngestError as error:
                if not error.may_pass or attempt >= attempts_max:
                    raise
                retry_after_s = error.retry_after_s or 0.0
            jitter = self._random_bits(16) / 65_536
            await asyncio.sleep(self._policy.backoff.delay_s(attempt, jitter=jitter, at_least_s=retry_after_s))
