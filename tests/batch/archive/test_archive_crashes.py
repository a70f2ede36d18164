"""Archive and restore on real servers, as commands: ended at each step, and checked by fsck."""

from typing import Any
from uuid import uuid4

import pytest

from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.digest import canonical_body, sha256_hex
from headrace.store.blobs.blob_store import Blobs
from headrace.store.installation import STORE_KEY
from headrace.store.locks import COLLECTOR_LOCK
from tests.batch.archive.archive_samples import grow_old, ldo
from tests.batch.batch_samples import Line, frame
from tests.commands import RunCommand, ended_at_each, headrace
from tests.servers import own_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

POINTS = [point for point in CrashPoint if point.startswith("move_")]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket, and a database, that no other test has."""
    changed = {"archive_url": f"{settings.store_url}/{uuid4().hex}", "collect_grace_hours": 0.0}
    return own_store(settings).model_copy(update=changed)


async def places(settings: Settings, sql: Any) -> dict[str, list[str]]:
    """In which of the two places each body is whole where its row, or any object, says it is."""
    result: dict[str, list[str]] = {}
    for archived, url in ((False, settings.store_url), (True, settings.archive_url)):
        blobs = Blobs.from_settings(settings.model_copy(update={"store_url": url}))
        rows = await sql.fetch(
            "select encode(sha256, 'hex'), store_key, store_offset, size_bytes from blobs"
            " where (archived_at is not null) = $1",
            archived,
        )
        for digest, key, offset, size_bytes in rows:
            assert sha256_hex(await blobs.get(key, offset=offset or 0, length=size_bytes)) == digest
            result.setdefault(digest, []).append("cold" if archived else "hot")
        named = {row[1] for row in rows}
        assert {stat.key async for stat in blobs.list("")} - {STORE_KEY} == named, "no object that no row names"
    return result


@ended_at_each(POINTS, process_at=CrashPoint.MOVE_BEFORE_NOTE)
async def test_an_archive_that_is_killed_there_goes_on(
    run: RunCommand, point: CrashPoint, settings: Settings, line: Line, sql: Any
) -> None:
    tag = uuid4().hex
    old, young = [ldo(number, tag) for number in range(8)], [ldo(number, tag) for number in range(8, 12)]
    await line.take(*old[:5])
    await line.take(*old[5:])
    await line.take(*young)
    await line.take(frame(tag))
    await grow_old(sql, [item.ldo_id for item in old])
    headrace(settings, "archive", crash_at=str(point), run=run)
    headrace(settings, "fsck")

    done = headrace(settings, "archive", "--json").json
    assert done["failed"] == {}
    digests = {sha256_hex(canonical_body(item)): "cold" for item in old}
    digests |= {sha256_hex(canonical_body(item)): "hot" for item in young} | {frame(tag).sha256: "hot"}
    assert await places(settings, sql) == {digest: [where] for digest, where in digests.items()}
    assert await sql.fetchval("select count(*) from outbox") == len(young) + 1
    assert await sql.fetchval("select count(*) from leavings") == 0
    again = headrace(settings, "archive", "--json").json
    assert (again["bodies"], again["objects_removed"]) == (0, 0)

    part = sorted(digest for digest, where in digests.items() if where == "cold")
    headrace(settings, "restore", *part, crash_at=str(point), run=run)
    headrace(settings, "restore", *part)
    digests |= dict.fromkeys(part, "hot")
    assert await places(settings, sql) == {digest: [where] for digest, where in digests.items()}
    output = headrace(settings, "fsck").err
    assert "no inconsistencies" in output
    again = headrace(settings, "archive", "--json").json
    assert again["bodies"] == 0, "what was restored stays for a while"


async def test_what_is_archived_is_said_where_it_is_read_and_a_dry_run_changes_nothing(
    settings: Settings, line: Line, sql: Any
) -> None:
    tag = uuid4().hex
    item = ldo(1, tag)
    await line.take(item)
    await grow_old(sql, [item.ldo_id])
    dry = headrace(settings, "archive", "--dry-run", "--json").json
    assert (dry["bodies"], dry["objects_written"]) == (1, 0)
    headrace(settings, "get", item.ldo_id)
    headrace(settings, "archive", "--shrink")
    output = headrace(settings, "get", item.ldo_id, code=Exit.FAILED).err
    digest = sha256_hex(canonical_body(item))
    assert "blob_archived" in output
    assert f"headrace restore {digest}" in output
    # The same LDO again is known: a sighting, and no new body.
    await line.take(item)
    assert await places(settings, sql) == {digest: ["cold"]}
    headrace(settings, "restore", item.ldo_id)
    headrace(settings, "get", item.ldo_id)


async def test_what_is_still_to_be_announced_stays(settings: Settings, line: Line, sql: Any) -> None:
    tag = uuid4().hex
    waiting = ldo(1, tag)
    await line.take(waiting)
    await grow_old(sql, [waiting.ldo_id])
    await sql.execute("update outbox set published_at = null")
    dry = headrace(settings, "archive", "--json").json
    assert dry["bodies"] == 0


async def test_only_one_moves_or_repairs_at_a_time(settings: Settings, sql: Any) -> None:
    assert await sql.fetchval("select pg_try_advisory_lock($1)", COLLECTOR_LOCK)
    for command in (("archive",), ("restore", "--kind", "ldos")):
        output = headrace(settings, *command, code=Exit.FAILED).err
        assert "another archive, restore or repair is running" in output


async def test_damage_in_the_archive_is_found(settings: Settings, line: Line, sql: Any) -> None:
    tag = uuid4().hex
    await line.take(ldo(1, tag), ldo(2, tag))
    await grow_old(sql, [f"{tag}-1", f"{tag}-2"])
    headrace(settings, "archive")
    archive = Blobs.from_settings(settings.model_copy(update={"store_url": settings.archive_url}))
    key = await sql.fetchval("select distinct store_key from blobs")
    await archive.delete(key)
    output = headrace(settings, "fsck", "--json", code=Exit.FAILED).json
    assert [item["name"] for item in output["findings"]["object_missing"]] == [key]
    output = headrace(settings, "restore", "--kind", "ldos", "--json", code=Exit.FAILED).json
    assert set(output["failed"].values()) == {"blob_missing"}
