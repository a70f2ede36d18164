"""The insert rate of a large catalog against that of an empty one, and the pages of its lists."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from statistics import median
from typing import Any, TypeAlias

import asyncpg

from headrace.bench import bodies
from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.producers.source import unix_us
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.codec import encode
from headrace.schemas.digest import pack_key
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.ldos import Ldos
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.views import RecordFilters
from headrace.store.postgres import opened_pool
from headrace.streams.core.batch_plan import StoredAt, row_batch
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import examine_batch
from tests.proofs.catalog import fill
from tests.servers import fresh_database, settings_of

Say: TypeAlias = Callable[[str], None]

BATCH_ROWS = 1000
BATCHES = 50
PAGES = 20
PAGE_RECORDS = 50
_WARM_UP_BATCHES = 3
_MEMBER_BYTES = 3072  # of a pack
_PARTITIONS = 4


def catalog_growth(records: int, say: Say) -> dict[str, Any]:
    """Measure a catalog with so many records beside an empty one on the same server."""
    with temporary_stack("local", services=(), progress=say) as stack:
        settings = settings_of(stack)
        initialize(settings)
        with fresh_database(settings) as empty:
            return asyncio.run(_measured(settings, empty, records, say))


async def _measured(full: Settings, empty: Settings, records: int, say: Say) -> dict[str, Any]:
    dsn = full.postgres_dsn.get_secret_value()
    connection = await asyncpg.connect(dsn)
    try:
        await fill(connection, records, say)
    finally:
        await connection.close()
    say("inserting into both catalogs in turn")
    async with _catalog(full) as into_full, _catalog(empty) as into_empty:
        full_per_s, empty_per_s = await _insert_rates(into_full, into_empty)
    say("reading pages")
    return {
        "records": records,
        "insert_per_s": round(full_per_s),
        "insert_per_s_empty": round(empty_per_s),
        "insert_ratio": round(full_per_s / empty_per_s, 3),
        "pages_ms": await _pages(dsn),
    }


async def _insert_rates(full: Catalog, empty: Catalog) -> tuple[float, float]:
    """Commit the same batches to each, one batch in turn; return the records per second of each."""
    took_s = {full: 0.0, empty: 0.0}
    for number in range(BATCHES + _WARM_UP_BATCHES):
        rows = ldo_rows(number * BATCH_ROWS, BATCH_ROWS)
        for catalog in took_s:
            began = time.perf_counter()
            await catalog.commit(rows)
            if number >= _WARM_UP_BATCHES:
                took_s[catalog] += time.perf_counter() - began
    count = BATCHES * BATCH_ROWS
    return count / took_s[full], count / took_s[empty]


def ldo_rows(first: int, number_of_rows: int) -> RowBatch:
    """Return the rows that a worker writes for so many LDOs, which came from an offset on."""
    topic, now_us = input_topic(Kind.LDO).name, unix_us()
    random = Random(first)  # noqa: S311 - incompressible, not secret
    messages = []
    for number in range(first, first + number_of_rows):
        event = bodies.ldo(number, captured_at_us=now_us, random=random)
        messages.append(
            ConsumedMessage(topic, number % _PARTITIONS, number, now_us, event.source_id.encode(), encode(event), ())
        )
    decoded = examine_batch(Kind.LDO, messages)
    key = pack_key(decoded.accepted[0].digest)
    stored_at = {
        delivery.digest: StoredAt(key, number * _MEMBER_BYTES) for number, delivery in enumerate(decoded.accepted)
    }
    return row_batch(decoded, stored_at)


async def _pages(dsn: str) -> dict[str, dict[str, float]]:
    queries = await Queries.open(dsn)
    try:
        async with opened_pool(dsn, connections_max=1, statement_s_max=300, application="growth") as pool:
            ldos = Ldos(pool, dsn)
            scopes, source = ["site-1/*"], RecordFilters(site="site-1", source_id="source-1")
            return {
                "ls": await _times(lambda _: queries.list_records(RecordFilters(), limit=PAGE_RECORDS)),
                "ls of a source": await _times(lambda _: queries.list_records(source, limit=PAGE_RECORDS)),
                "counts below ls": await _times(lambda _: queries.counts()),
                "LDO list": await _times(lambda page: ldos.page(page * PAGE_RECORDS, PAGE_RECORDS, None)),
                "LDO list of a site": await _times(lambda page: ldos.page(page * PAGE_RECORDS, PAGE_RECORDS, scopes)),
                "LDO list after 100,000": await _times(lambda _: ldos.page(100_000, PAGE_RECORDS, None)),
                "LDO count": await _times(lambda _: ldos.count(None)),
            }
    finally:
        await queries.close()


async def _times(read: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    """Return the median and the longest time in milliseconds, after one that does not count."""
    await read(0)
    times_ms = []
    for page in range(PAGES):
        began = time.perf_counter()
        await read(page)
        times_ms.append((time.perf_counter() - began) * 1000)
    return {"median": round(median(times_ms), 1), "max": round(max(times_ms), 1)}


@asynccontextmanager
async def _catalog(settings: Settings) -> AsyncIterator[Catalog]:
    catalog = await Catalog.open(settings.postgres_dsn.get_secret_value(), connections_max=1)
    try:
        yield catalog
    finally:
        await catalog.close()
