"""What a site's mirrored topic left out: gaps, what retention deleted at the site, and topics that were made anew."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from headrace.schemas.catalog_rows import OffsetRun, RowBatch
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.mirror_losses import (
    Followed,
    MirrorLosses,
    MirrorLossReason,
    SitePartition,
    follow,
    site_partition,
)
from tests.store.store_rows import record, sighting
from tests.store.test_catalog import Sql

TOPIC = "factory-a.edge.frames.v1"
KEY = TOPIC, 2
PLACE = SitePartition("factory-a", "edge.frames.v1", 2)
GAP, RETENTION, ANEW = MirrorLossReason.GAP, MirrorLossReason.RETENTION, MirrorLossReason.MADE_ANEW


@pytest.fixture
async def losses(postgres_dsn: str) -> AsyncIterator[MirrorLosses]:
    async with MirrorLosses.open(postgres_dsn, statement_s_max=10.0) as opened:
        yield opened


def brought(*numbers: int, offsets: Sequence[int] | None = None, mirrored_from: int = 0) -> RowBatch:
    """A batch with the records of these numbers, at these offsets of the site's topic: by default, their numbers."""
    places = list(zip(numbers, offsets or numbers, strict=True))
    sightings = [
        sighting(number, topic=TOPIC, partition=2, offset=offset, mirrored_offset=mirrored_from + index)
        for index, (number, offset) in enumerate(places)
    ]
    runs: list[OffsetRun] = []
    for _, offset in places:
        if runs and runs[-1][1] + 1 == offset:
            runs[-1] = runs[-1][0], offset
        else:
            runs.append((offset, offset))
    records = [record(number) for number in numbers]
    return RowBatch(blobs=[], records=records, sightings=sightings, dead_letters=[], origins={KEY: runs})


async def listed(losses: MirrorLosses) -> list[tuple[MirrorLossReason, int, int | None]]:
    found = await losses.listed()
    assert all((loss.site, loss.topic, loss.partition) == ("factory-a", "edge.frames.v1", 2) for loss in found)
    return sorted((loss.reason, loss.first_offset, loss.last_offset) for loss in found)


@pytest.mark.parametrize(
    ("expected", "runs", "followed"),
    [
        (None, [(7, 9)], Followed(10)),
        (10, [(10, 12)], Followed(13)),
        (10, [(12, 12), (15, 16)], Followed(17, [(10, 11), (13, 14)])),
        (10, [(4, 12)], Followed(13, [], [(4, 9)])),
        (10, [(4, 6)], Followed(10, [], [(4, 6)])),
        (10, [(10, 11), (0, 3)], Followed(12, [], [(0, 3)])),
        (None, [(5, 6), (0, 1)], Followed(7, [], [(0, 1)])),
    ],
)
def test_offsets_are_compared_with_the_one_that_is_expected(
    expected: int | None, runs: list[OffsetRun], followed: Followed
) -> None:
    assert follow(expected, runs) == followed


def test_a_mirrored_partition_is_one_of_the_site() -> None:
    assert site_partition(KEY) == PLACE


async def test_what_a_site_had_before_it_was_mirrored_is_not_lost(catalog: Catalog, losses: MirrorLosses) -> None:
    await catalog.commit(brought(100, 101))
    assert await listed(losses) == []


async def test_a_topic_that_is_mirrored_twice_adds_nothing_and_is_no_loss(
    catalog: Catalog, losses: MirrorLosses, sql: Sql
) -> None:
    first = await catalog.commit(brought(1, 2, 3))
    again = await catalog.commit(brought(1, 2, 3, mirrored_from=1000))
    await catalog.commit(brought(4, mirrored_from=1003))
    assert (first.new_sightings, again.new_sightings, again.new_records) == (3, 0, frozenset())
    assert await listed(losses) == []
    assert await sql.fetchval("select count(*) from outbox") == 4
    assert await sql.fetchval('select array_agg("offset" order by "offset") from sightings') == [1, 2, 3, 4]


async def test_a_gap_is_lost_where_the_site_has_deleted_it_and_forgotten_where_not(
    catalog: Catalog, losses: MirrorLosses
) -> None:
    await catalog.commit(brought(1, 2, 5, 6))
    await catalog.commit(brought(20, mirrored_from=4))
    assert await listed(losses) == [(GAP, 3, 4), (GAP, 7, 19)]
    assert await losses.note_source_start(PLACE, 50, age_s=60.0) == [], "it looked before these gaps were noticed"
    assert await losses.note_source_start(replace(PLACE, partition=3), 50, age_s=0.0) == []
    assert await listed(losses) == [(GAP, 3, 4), (GAP, 7, 19)]
    found = await losses.note_source_start(PLACE, 10, age_s=0.0)
    assert {(loss.first_offset, loss.last_offset, loss.count) for loss in found} == {(3, 4, 2), (7, 9, 3)}
    assert await listed(losses) == [(RETENTION, 3, 4), (RETENTION, 7, 9)]
    await catalog.commit(brought(30, mirrored_from=5))
    assert await losses.note_source_start(PLACE, 10, age_s=0.0) == [], "markers: the site still has these offsets"
    assert await listed(losses) == [(RETENTION, 3, 4), (RETENTION, 7, 9)]


async def test_what_the_mirror_knows_to_be_lost_is_recorded_once(losses: MirrorLosses) -> None:
    for first, last in ((10, 20), (15, 30), (10, 20), (31, 31), (40, 41)):
        await losses.record_mirror_loss(PLACE, first, last, RETENTION)
    await losses.record_mirror_loss(PLACE, 50, None, MirrorLossReason.TRUNCATED)
    await losses.record_mirror_loss(PLACE, 50, None, MirrorLossReason.TRUNCATED)
    assert sorted((str(reason), first, last or 0) for reason, first, last in await listed(losses)) == [
        ("retention", 10, 31),
        ("retention", 40, 41),
        ("truncated", 50, 0),
    ]


async def test_a_topic_that_was_made_anew_at_the_site_is_noticed_once(catalog: Catalog, losses: MirrorLosses) -> None:
    old, new = brought(1, 2, 3, offsets=[0, 1, 2]), brought(11, 12, offsets=[0, 1], mirrored_from=3)
    await catalog.commit(old)
    result = await catalog.commit(new)
    assert (len(result.new_records), result.new_sightings) == (2, 2)
    await catalog.commit(new)  # delivered again
    await catalog.commit(brought(13, offsets=[2], mirrored_from=5))
    assert await listed(losses) == [(ANEW, 3, None)], "what the old topic had from there on was not mirrored"


async def test_a_topic_made_anew_is_noticed_within_one_transaction(catalog: Catalog, losses: MirrorLosses) -> None:
    await catalog.commit(brought(1, 2, 11, 12, offsets=[0, 1, 0, 1]))
    assert [reason for reason, _, _ in await listed(losses)] == [ANEW]
