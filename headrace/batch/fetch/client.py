"""`IngestClient`: ingests URLs into the store and the catalog, for synchronous callers.

A `FetchJob` fetches a URL, validates the bytes and stores them, and retries each step where that may help.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AsyncExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import SecretStr

from headrace.batch.background import BackgroundLoop
from headrace.batch.fetch.asset import OFFSET_BITS, Asset, AssetOrigin, asset_of, batch_of
from headrace.batch.fetch.errors import STORING_ERRORS, ErasedError, IngestError, from_storage_error
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.items import UrlInput, UrlItem, number_items
from headrace.batch.fetch.outcome import FetchOutcome, FetchResult, FetchStatus, FetchTally
from headrace.batch.fetch.policy import FetchPolicy
from headrace.batch.fetch.state import FetchState
from headrace.batch.fetch.url import WebUrl, parse_url, redact_url_text
from headrace.runtime.addresses import Lookup, system_lookup
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.errors import BlobsCollectedError
from headrace.store.installation import require_store
from headrace.store.postgres import opened_pool
from headrace.store.requests.ingest_status import IngestStatuses

WORKERS_MAX = 64
STATEMENT_S_MAX = 60.0  # for looking up the lines of a state file
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
            StoreFailedError, CatalogFailedError, ErasedError: nothing of it is in the catalog.
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
        catalog = await self._catalog.look_up([digest])
        names = asset.origin.site, asset.origin.source
        if any(tombstone.keeps_out(*names) for tombstone in catalog.tombstones):
            raise ErasedError("the same bytes were erased, and are kept out", where=asset.url)
        known = catalog.blobs.get(digest)
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


class IngestClient:
    """Fetches URLs and stores their images and videos; a context manager, and thread-safe.

    Records are announced like all others. HEADRACE_URL_* set the limits, the politeness and the allowed networks.
    """

    def __init__(  # noqa: PLR0913 - the signature is an interface
        self,
        s3_bucket: str = "",
        db_url: str = "",
        *,
        endpoint_url: str = "",
        region: str = "",
        access_key: str = "",
        secret_key: str = "",
        site: str = "web",
        settings: Settings | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        """Connect to a bucket (its name, or a store's URL) and to PostgreSQL; the settings supply the rest.

        `lookup` resolves host names instead of the system's resolver.

        Raises:
            HeadraceError: a setting is invalid, bucket and database do not belong together, or the catalog may be an
                older copy. StoreFailedError, CatalogFailedError: cannot use bucket or database.
        """
        overrides = {
            "store_url": s3_bucket if "://" in s3_bucket or not s3_bucket else f"s3://{s3_bucket}",
            # The variable of the AWS tools.
            "store_endpoint": endpoint_url or os.environ.get("AWS_ENDPOINT_URL", ""),
            "store_region": region,
            "store_access_key": SecretStr(access_key) if access_key else "",
            "store_secret_key": SecretStr(secret_key) if secret_key else "",
            # Without SQLAlchemy's driver name.
            "postgres_dsn": SecretStr(re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", db_url)) if db_url else "",
        }
        base = settings if settings is not None else load_settings()
        self._settings = base.model_copy(update={name: value for name, value in overrides.items() if value})
        self._policy = FetchPolicy.of(self._settings, site)
        self._site = site
        self._stack = AsyncExitStack()
        self._background = BackgroundLoop()
        try:
            self._job = self._background.run(self._open_job(lookup))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Cancel running fetches and close every connection; may be repeated."""
        if self._background.is_open:
            try:
                self._background.run(self._stack.aclose())
            finally:
                self._background.close()

    def ingest_url(self, url: str, license: str | None = None, source: str = "urls") -> dict[str, Any]:  # noqa: A002
        """Fetch a URL and store its image or video.

        Returns its record: `id`, `s3_key`, `checksum` (SHA-256, hexadecimal), `duplicate` (whether the same bytes were
        stored before, under this id), `url`, `license`, `source`, `media_type`, `size_bytes`.

        Raises:
            IngestError: a subclass names the cause; nothing of it is in the catalog.
        """
        target = parse_url(url)
        origin = AssetOrigin(source=source, license=license, site=self._site)
        return self._background.run(self._job.ingest(target, origin)).as_dict()

    def ingest_urls(  # noqa: PLR0913 - the signature is an interface
        self,
        urls: Iterable[UrlInput],
        *,
        license: str | None = None,  # noqa: A002
        source: str = "urls",
        workers: int | None = None,
        state: str | Path | None = None,
        progress: bool = False,
    ) -> Generator[FetchOutcome]:
        """Ingest many URLs, `workers` at a time, and yield the outcome of each as it completes, in any order.

        An item is a URL, or a mapping with `url` and optionally `license` and `source`. With a state file, a URL that
        an earlier run has stored is `known` and not fetched again. A failed URL does not end the others; closing the
        generator cancels the running ones.

        Raises:
            HeadraceError: the state file cannot be used or written. CatalogFailedError: the catalog cannot confirm it.
            ValueError: `workers` is not from 1 to WORKERS_MAX.
        """
        concurrency = workers if workers is not None else self._settings.url_workers
        if not 1 <= concurrency <= WORKERS_MAX:
            raise ValueError(f"workers must be from 1 to {WORKERS_MAX}")
        origin = AssetOrigin(source=source, license=license, site=self._site)
        total = len(urls) if isinstance(urls, Sized) else None
        with (
            closing(FetchState(Path(state))) if state is not None else nullcontext() as state_file,
            _progress_bar(total, is_shown=progress) as advance,
        ):
            if state_file is not None:
                self._background.run(self._confirm(state_file))
            for outcome in self._outcomes(number_items(urls, origin), concurrency, state_file):
                advance(outcome)
                yield outcome

    def _outcomes(
        self, items: Iterator[UrlItem | FetchOutcome], concurrency: int, state: FetchState | None
    ) -> Iterator[FetchOutcome]:
        """Keep `concurrency` fetches running; the next item is requested when one of them has completed."""
        pending: set[Future[FetchOutcome]] = set()
        try:
            for item in items:
                if isinstance(item, FetchOutcome):
                    yield item
                    continue
                pending.add(self._background.submit(self._outcome(item, state)))
                if len(pending) >= concurrency:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in pending:
                future.cancel()

    async def _outcome(self, item: UrlItem, state: FetchState | None) -> FetchOutcome:
        try:
            target = parse_url(item.url)
            if state is not None and (known := state.result_of(target)) is not None:
                return FetchOutcome(index=item.index, url=target.redacted, status=FetchStatus.KNOWN, result=known)

            position = 0

            def write_state(offset: int, result: FetchResult) -> None:
                nonlocal position
                if state is not None:
                    position = state.write(target, offset, result)

            result = await self._job.ingest(target, item.origin, write_state)
        except IngestError as error:
            url = redact_url_text(item.url)
            return FetchOutcome(index=item.index, url=url, status=FetchStatus.FAILED, error=error)
        if state is not None:
            state.mark_committed(target, position)
        status = FetchStatus.DUPLICATE if result.duplicate else FetchStatus.STORED
        return FetchOutcome(index=item.index, url=result.url, status=status, result=result)

    async def _confirm(self, state: FetchState) -> None:
        dsn = self._settings.postgres_dsn.get_secret_value()
        try:
            async with opened_pool(
                dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace ingest-urls"
            ) as pool:
                await state.confirm(IngestStatuses(pool, dsn))
        except STORING_ERRORS as error:
            raise from_storage_error(error) from None

    async def _open_job(self, lookup: Lookup) -> FetchJob:
        settings = self._settings
        try:
            blobs = Blobs.from_settings(settings)
            await blobs.check()
            catalog = await Catalog.open(
                settings.postgres_dsn.get_secret_value(),
                connections_max=settings.postgres_connections_max,
                statement_s_max=settings.postgres_statement_s_max,
                application="headrace ingest-urls",
            )
            self._stack.push_async_callback(catalog.close)
            await catalog.check()
            await require_store(settings, blobs)
        except STORING_ERRORS as error:
            raise from_storage_error(error) from None
        fetcher = await self._stack.enter_async_context(Fetcher(self._policy, lookup=lookup))
        return FetchJob(
            fetcher,
            AssetStore(blobs, catalog),
            self._policy,
            now_us=lambda: time.time_ns() // 1000,
            random_bits=random.SystemRandom().getrandbits,
        )


@contextmanager
def _progress_bar(total: int | None, *, is_shown: bool) -> Iterator[Callable[[FetchOutcome], None]]:
    """Show a progress bar with the counts by status on standard error."""
    if not is_shown:
        yield lambda _outcome: None
        return
    from rich.console import Console

    from headrace.runtime.progress import count_bars

    tally = FetchTally()

    def description() -> str:
        return ", ".join(f"{tally.by_status[status]} {status.value}" for status in FetchStatus)

    with count_bars(Console(stderr=True), is_shown=True) as progress:
        task = progress.add_task(description(), total=total)

        def advance(outcome: FetchOutcome) -> None:
            tally.add(outcome)
            progress.update(task, advance=1, description=description())

        yield advance
