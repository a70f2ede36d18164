"""What is erased is gone from the archive, from packs there, from restored copies, and from what a move left behind."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind, Ldo
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.streams.worker.group_commit import commit_or_store_again
from tests.batch.archive.archive_samples import grow_old, ldo
from tests.batch.batch_samples import Line
from tests.batch.erase.erase_runs import erase, fsck_is_clean
from tests.commands import headrace

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


def stores_of(settings: Settings) -> dict[str, Blobs]:
    """The store and the archive."""
    archive = settings.model_copy(update={"store_url": settings.archive_url})
    return {"store": Blobs.from_settings(settings), "archive": Blobs.from_settings(archive)}


async def objects_of(settings: Settings) -> dict[tuple[str, str], bytes]:
    """Every object of both."""
    return {
        (place, stat.key): await blobs.get(stat.key)
        for place, blobs in stores_of(settings).items()
        async for stat in blobs.list("")
    }


async def holding(settings: Settings, item: Ldo) -> set[tuple[str, str]]:
    """The objects that hold the body of an LDO."""
    return {name for name, data in (await objects_of(settings)).items() if f'"{item.ldo_id}"'.encode() in data}


def large(number: int) -> Ldo:
    """An LDO that is too large for a pack."""
    item = ldo(number, uuid4().hex)
    body = item.body[:-1] + b',"filler":"%s"}' % (b"x" * PACKED_BYTES_MAX)
    return Ldo(
        source_id=item.source_id,
        site=item.site,
        captured_at_us=item.captured_at_us,
        sequence=item.sequence,
        ldo_id=item.ldo_id,
        body=body,
    )


async def archived(settings: Settings, line: Line, sql: Any, *items: Ldo) -> None:
    await line.take(*items)
    await grow_old(sql, [item.ldo_id for item in items])
    headrace(settings, "archive")
    assert {place for item in items for place, _ in await holding(settings, item)} == {"archive"}


async def test_an_object_and_a_pack_in_the_archive_are_deleted_and_written_again(
    settings: Settings, line: Line, sql: Any
) -> None:
    alone, *packed = large(0), *(ldo(number, uuid4().hex) for number in range(1, 5))
    await archived(settings, line, sql, alone, *packed)
    rows = {row["ldo_id"]: row for row in await sql.fetch(PLACES)}
    [pack] = {rows[item.ldo_id]["store_key"] for item in packed}
    before = (await objects_of(settings))["archive", pack]

    result = await erase(settings, alone.ldo_id, packed[0].ldo_id, packed[1].ldo_id, "--yes")
    report = result["erasures"][0]["report"]
    assert (report["objects_deleted"], report["packs_rewritten"]) == (1, 1)
    for item in (alone, *packed[:2]):
        assert await holding(settings, item) == set()
    for item in packed[2:]:
        assert await holding(settings, item) == {("archive", pack)}
        row = rows[item.ldo_id]
        span = slice(row["store_offset"], row["store_offset"] + row["size_bytes"])
        assert (await objects_of(settings))["archive", pack][span] == before[span]
    headrace(settings, "restore", packed[2].ldo_id)
    headrace(settings, "get", packed[2].ldo_id)
    await fsck_is_clean(settings)

    after = await objects_of(settings)
    assert await erase(settings, "--resume") == {"erasures": []}
    assert await objects_of(settings) == after, "a second run changes nothing"

    await erase(settings, *(item.ldo_id for item in packed[2:]), "--yes")
    assert {key for place, key in await objects_of(settings) if place == "archive"} == set()


PLACES = "select ldo_id, store_key, store_offset, b.size_bytes from records as r join blobs as b on sha256 = r.digest"


@pytest.mark.parametrize("make", [large, lambda number: ldo(number, uuid4().hex)], ids=["object", "pack"])
async def test_a_restored_copy_is_gone_too_and_so_is_what_stays_of_it_in_the_archive(
    settings: Settings, line: Line, sql: Any, make: Callable[[int], Ldo]
) -> None:
    restored, *others = (make(number) for number in range(3))
    await archived(settings, line, sql, restored, *others)
    headrace(settings, "restore", restored.ldo_id)
    await erase(settings, restored.ldo_id, "--yes")
    assert await holding(settings, restored) == set()
    for item in others:
        headrace(settings, "restore", item.ldo_id)
        headrace(settings, "get", item.ldo_id)
    assert {key for place, key in await objects_of(settings) if place == "archive"} == set()
    await fsck_is_clean(settings)
    assert await sql.fetchval("select count(*) from pack_copies") == 0


async def test_a_pack_in_the_store_that_young_bodies_keep_loses_what_was_archived_and_erased(
    settings: Settings, line: Line, sql: Any
) -> None:
    old, young = ldo(0, uuid4().hex), [ldo(number, uuid4().hex) for number in range(1, 4)]
    await line.take(old, *young)
    await grow_old(sql, [old.ldo_id])
    headrace(settings, "archive")
    assert {place for place, _ in await holding(settings, old)} == {"store", "archive"}
    await erase(settings, old.ldo_id, "--yes")
    assert await holding(settings, old) == set()
    for item in young:
        headrace(settings, "get", item.ldo_id)
    await fsck_is_clean(settings)


async def test_bytes_that_two_workers_packed_at_once_are_gone_from_both_packs(
    settings: Settings, line: Line, catalog: Catalog, sql: Any
) -> None:
    shared, first, second = (ldo(number, uuid4().hex) for number in range(3))
    ingest = line.ingest()
    batches = [
        await ingest.store_bodies(await ingest.decode(Kind.LDO, line.published(shared, item)))
        for item in (first, second)
    ]
    for batch in batches:
        await commit_or_store_again(ingest, batch)
    assert len(await holding(settings, shared)) == 2
    await erase(settings, shared.ldo_id, "--yes")
    assert await holding(settings, shared) == set()
    for item in (first, second):
        headrace(settings, "get", item.ldo_id)
    await fsck_is_clean(settings)
