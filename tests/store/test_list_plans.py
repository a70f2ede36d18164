"""A list or a record reads the rows that it shows, however many others its source or the record has."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from headrace.schemas.events import Kind
from headrace.store.catalog.pagination import page_query
from headrace.store.catalog.queries import Queries
from headrace.store.catalog.views import RecordFilters
from tests.servers import pool_of
from tests.store.many_rows import fill

ROWS = 20_000
SHOWN = 10

pytestmark = pytest.mark.stack


@pytest.fixture
async def filled(postgres_dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_dsn)
    await fill(connection, ROWS)
    await connection.execute("vacuum analyze")
    yield connection
    await connection.close()


async def rows_read(connection: Any, text: str, *values: object) -> int:
    """How many rows the scans of a statement read, whether they are kept or not."""
    (plan,) = await connection.fetchrow(f"explain (analyze, format json) {text}", *values)
    return max(
        round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in _nodes(json.loads(plan)[0]["Plan"])
        if node.get("Relation Name") in {"records", "sightings"}
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


@pytest.mark.parametrize(
    "wanted",
    [
        RecordFilters(site="site-1", source_id="source-1", kinds=frozenset({Kind.CLIP})),
        RecordFilters(scopes=("site-1/source-1",), kinds=frozenset({Kind.CLIP})),
        RecordFilters(kinds=frozenset({Kind.CLIP})),
    ],
)
async def test_a_list_of_a_kind_reads_no_other_kinds(filled: Any, wanted: RecordFilters) -> None:
    # Of one source the clips end early: after them come its records of other kinds.
    await filled.execute("delete from records where source_id = 'source-1' and kind = 'clip' and sequence > 1000")
    text, values = page_query(wanted, None, SHOWN)
    assert await rows_read(filled, text, *values) <= SHOWN


async def test_a_record_with_many_sightings_shows_its_oldest_without_reading_all(
    filled: Any, postgres_dsn: str
) -> None:
    record = await filled.fetchval("select record_id from records limit 1")
    await filled.execute(
        'insert into sightings (topic, partition, "offset", record_id, site, source_id, captured_at, sequence, seen_at)'
        " select 'edge.frames.v1', 9, i, $1, 'site', 'source', now(), i, now() + i * interval '1 second'"
        " from generate_series(1, 5000) as i",
        record,
    )
    await filled.execute("vacuum analyze sightings")
    async with pool_of(postgres_dsn) as pool:
        text = Queries(pool, postgres_dsn)._sql["sightings"]
    assert await rows_read(filled, text, record, SHOWN, None) <= 2 * SHOWN
