"""The catalog's offsets of the input partitions move on with the rows of a batch, and never back."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from headrace.runtime.errors import Exit
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.ingest_progress import CatalogPosition, IngestProgress
from headrace.store.errors import CatalogRevertedError
from tests.store.store_rows import batch, letter
from tests.store.test_catalog import Sql, counts

pytestmark = pytest.mark.stack

FRAMES = ("edge.frames.v1", 0)


@pytest.fixture
async def progress(postgres_dsn: str) -> AsyncIterator[IngestProgress]:
    async with IngestProgress.open(postgres_dsn, statement_s_max=10.0) as opened:
        yield opened


async def test_a_batch_moves_its_partitions_on_and_never_back(catalog: Catalog, progress: IngestProgress) -> None:
    later = replace(batch([7, 8]), progress={FRAMES: 9, ("edge.cids.v1", 3): 4})
    await catalog.commit(later)
    await catalog.commit(replace(batch([1, 2]), progress={FRAMES: 3}))
    await catalog.commit(later)
    assert await progress.positions([FRAMES, ("edge.cids.v1", 3), ("edge.cids.v1", 4)]) == {
        FRAMES: CatalogPosition(9, 9),
        ("edge.cids.v1", 3): CatalogPosition(4, None),
        ("edge.cids.v1", 4): CatalogPosition(None, None),
    }


async def test_dead_letters_alone_move_a_partition_on(catalog: Catalog, progress: IngestProgress) -> None:
    await catalog.commit(replace(batch([], letters=[letter(5)]), progress={FRAMES: 6}))
    assert await progress.positions([FRAMES]) == {FRAMES: CatalogPosition(6, 6)}


async def test_a_batch_that_is_rolled_back_moves_nothing(catalog: Catalog, progress: IngestProgress, sql: Sql) -> None:
    def end(reached: str) -> None:
        if reached == "before_commit":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await catalog.commit(replace(batch([1]), progress={FRAMES: 2}), reached=end)
    assert await progress.positions([FRAMES]) == {FRAMES: CatalogPosition(None, None)}
    assert await counts(sql) == {"blobs": 0, "records": 0, "sightings": 0, "outbox": 0, "dead_letters": 0}


@pytest.mark.parametrize(
    "older", ["delete from ingest_progress", "update ingest_progress set next_offset = next_offset - 1"]
)
async def test_a_catalog_that_lacks_what_this_process_committed_is_not_written_to(
    catalog: Catalog, sql: Sql, older: str
) -> None:
    await catalog.commit(replace(batch([1, 2]), progress={FRAMES: 3}))
    await sql.execute(older)
    with pytest.raises(CatalogRevertedError, match=r"edge.frames.v1 \[0\] was ingested to offset 3") as raised:
        await catalog.commit(replace(batch([3]), progress={FRAMES: 4}))
    assert raised.value.exit_code == Exit.REVERTED
    assert "headrace recover" in raised.value.hint
    assert (await counts(sql))["records"] == 2


async def test_what_is_lost_is_recorded_once_and_merged(progress: IngestProgress) -> None:
    assert await progress.note_lost(FRAMES, range(10, 20)) == 10
    assert await progress.note_lost(FRAMES, range(10, 20)) == 0
    assert await progress.note_lost(FRAMES, range(5, 12)) == 5
    assert await progress.note_lost(FRAMES, range(20, 5_000_000)) == 4_999_980
    assert await progress.note_lost(("edge.frames.v1", 1), range(1)) == 1
    assert await progress.note_lost(FRAMES, range(6_000_000, 6_000_001)) == 1
    lost = sorted((lost.topic, lost.partition, lost.first_offset, lost.last_offset) for lost in await progress.lost())
    assert lost == [
        ("edge.frames.v1", 0, 5, 4_999_999),
        ("edge.frames.v1", 0, 6_000_000, 6_000_000),
        ("edge.frames.v1", 1, 0, 0),
    ]
