"""`IngestClient`: URLs into the store and the catalog, for callers that are not asynchronous."""

import os
import random
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AsyncExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, Self, TypeAlias

from pydantic import SecretStr

from headrace.batch.background import BackgroundLoop
from headrace.batch.fetch import url as urls_of
from headrace.batch.fetch.asset import AssetOrigin
from headrace.batch.fetch.asset_store import AssetStore
from headrace.batch.fetch.errors import STORING_ERRORS, ArgumentRefusedError, IngestError, of_storing
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.job import FetchJob
from headrace.batch.fetch.outcome import FetchOutcome, FetchResult, FetchStatus, UrlItem
from headrace.batch.fetch.policy import FetchPolicy
from headrace.batch.fetch.progress import Bar
from headrace.batch.fetch.state import FetchState
from headrace.runtime.resolve import Lookup, system_lookup
from headrace.runtime.settings import Settings, load_settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.postgres import opened_pool
from headrace.store.requests.ingest_status import IngestStatuses

WORKERS_MAX = 64
STATEMENT_S_MAX = 60.0  # of looking up the lines of a state file

Given: TypeAlias = str | Mapping[str, Any]


class IngestClient:
    """Fetches URLs and stores what they lead to; a context manager, and safe to use from several threads.

    What it stores is announced like everything else. Limits, manners and networks are those of HEADRACE_URL_*.
    """

    def __init__(  # noqa: PLR0913 - callers know these names
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
        """Connect to a bucket (its name, or a store's URL) and to PostgreSQL; what is not given the settings say.

        `lookup` asks for a name's addresses, in place of the machine's own resolver.

        Raises:
            HeadraceError: a setting is wrong. StoreFailed, CatalogFailed: bucket or database cannot be used.
        """
        given = {
            "store_url": s3_bucket if "://" in s3_bucket or not s3_bucket else f"s3://{s3_bucket}",
            # What the AWS tools read, for callers that know nothing of Headrace.
            "store_endpoint": endpoint_url or os.environ.get("AWS_ENDPOINT_URL", ""),
            "store_region": region,
            "store_access_key": SecretStr(access_key) if access_key else "",
            "store_secret_key": SecretStr(secret_key) if secret_key else "",
            # SQLAlchemy's way to name a driver says nothing here.
            "postgres_dsn": SecretStr(re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", db_url)) if db_url else "",
        }
        known = settings if settings is not None else load_settings()
        self._settings = known.model_copy(update={name: value for name, value in given.items() if value})
        self._rules = FetchPolicy.of(self._settings)
        self._site = site
        self._open = AsyncExitStack()
        self._background = BackgroundLoop()
        try:
            self._job = self._background.run(self._opened(lookup))
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
        """End what is under way, and close every connection; may be repeated."""
        if self._background.is_open:
            try:
                self._background.run(self._open.aclose())
            finally:
                self._background.close()

    def ingest_url(self, url: str, license: str | None = None, source: str = "urls") -> dict[str, Any]:  # noqa: A002
        """Fetch a URL and store what it leads to.

        Returns its record: `id`, `s3_key`, `checksum` (SHA-256, hexadecimal), `duplicate` (whether the same bytes were
        there, under this id), `url`, `license`, `source`, `media_type`, `size_bytes`.

        Raises:
            IngestError: a subclass that says what failed; nothing of it is in the catalog.
        """
        target, about = urls_of.parse(url), AssetOrigin(source=source, license=license, site=self._site)
        return self._background.run(self._job.ingest(target, about)).as_dict()

    def ingest_urls(
        self,
        urls: Iterable[Given],
        *,
        license: str | None = None,  # noqa: A002
        source: str = "urls",
        workers: int | None = None,
        state: str | Path | None = None,
        progress: bool = False,
    ) -> Generator[FetchOutcome]:
        """Ingest many URLs, `workers` at a time, and yield what becomes of each as it comes, in no order.

        An item is a URL, or a mapping with `url` and, where they differ, `license` and `source`. With a state file,
        what an earlier run with it has stored is `known` and not fetched again. Whoever ends the generator ends what is
        under way. One that fails does not end the others.

        Raises:
            HeadraceError: the state file cannot be used, or no longer be written. CatalogFailed: the catalog cannot be
                asked for what it says.
            ValueError: `workers` is not from 1 to WORKERS_MAX.
        """
        at_once = workers if workers is not None else self._settings.url_workers
        if not 1 <= at_once <= WORKERS_MAX:
            raise ValueError(f"workers are from 1 to {WORKERS_MAX}")
        about = AssetOrigin(source=source, license=license, site=self._site)
        total = len(urls) if isinstance(urls, Sized) else None
        with (
            closing(FetchState(Path(state))) if state is not None else nullcontext() as kept,
            Bar(total, shown=progress) as bar,
        ):
            if kept is not None:
                self._background.run(self._confirmed(kept))
            for outcome in self._outcomes(_items(urls, about), at_once, kept):
                bar.add(outcome)
                yield outcome

    def _outcomes(
        self, items: Iterator[UrlItem | FetchOutcome], at_once: int, state: FetchState | None
    ) -> Iterator[FetchOutcome]:
        """Keep so many under way; the next item is asked for when one of them has ended."""
        pending: set[Future[FetchOutcome]] = set()
        try:
            for item in items:
                if isinstance(item, FetchOutcome):
                    yield item
                    continue
                pending.add(self._background.submit(self._outcome(item, state)))
                if len(pending) >= at_once:
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
            target = urls_of.parse(item.url)
            if state is not None and (known := state.known(target)) is not None:
                return FetchOutcome(index=item.index, url=target.shown, status=FetchStatus.KNOWN, result=known)

            noted_at = 0

            def note(offset: int, result: FetchResult) -> None:
                nonlocal noted_at
                if state is not None:
                    noted_at = state.note(target, offset, result)

            result = await self._job.ingest(target, item.about, note)
        except IngestError as error:
            return FetchOutcome(
                index=item.index, url=urls_of.shown_text(item.url), status=FetchStatus.FAILED, error=error
            )
        if state is not None:
            state.stored(target, noted_at)
        status = FetchStatus.DUPLICATE if result.duplicate else FetchStatus.STORED
        return FetchOutcome(index=item.index, url=result.url, status=status, result=result)

    async def _confirmed(self, state: FetchState) -> None:
        dsn = self._settings.postgres_dsn.get_secret_value()
        try:
            async with opened_pool(
                dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace ingest-urls"
            ) as pool:
                await state.confirm(IngestStatuses(pool, dsn))
        except STORING_ERRORS as error:
            raise of_storing(error) from None

    async def _opened(self, lookup: Lookup) -> FetchJob:
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
            self._open.push_async_callback(catalog.close)
            await catalog.check()
        except STORING_ERRORS as error:
            raise of_storing(error) from None
        fetcher = await self._open.enter_async_context(Fetcher(self._rules, lookup=lookup))
        return FetchJob(
            fetcher,
            AssetStore(blobs, catalog),
            self._rules,
            now_us=lambda: time.time_ns() // 1000,
            random_bits=random.SystemRandom().getrandbits,
        )


def _items(given: Iterable[Given], about: AssetOrigin) -> Iterator[UrlItem | FetchOutcome]:
    """Number the items; one that says no URL is an outcome already."""
    for index, one in enumerate(given):
        said: Mapping[str, Any] = {"url": one} if isinstance(one, str) else one
        values = [said.get("url"), said.get("license", about.license), said.get("source", about.source)]
        url, license_, source = values
        if isinstance(url, str) and isinstance(license_, str | None) and isinstance(source, str):
            yield UrlItem(index=index, url=url, about=AssetOrigin(source=source, license=license_, site=about.site))
        else:
            error = ArgumentRefusedError("url, license and source have to be text")
            yield FetchOutcome(index=index, url="", status=FetchStatus.FAILED, error=error)
