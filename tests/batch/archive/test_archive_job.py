"""Archive and restore against a real catalog: pages, the lock, waiting, and what PostgreSQL gives back."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from headrace.batch.archive.job import archive, restore
from headrace.runtime.settings import Settings
from headrace.schemas.digest import canonical_body, sha256_hex
from headrace.schemas.events import Kind, Ldo
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog import archives as archives_module
from headrace.store.catalog.archives import Archives, ArchiveSelection
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.orphan_gc import GcRunningError
from headrace.store.installation import STORE_KEY
from headrace.store.locks import COLLECTOR_LOCK
from tests.batch.archive.archive_samples import grow_old, ldo
from tests.batch.batch_samples import Line
from tests.store.glacier import SLEEPING, Glacier

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

_MANY = 20_000


@pytest.fixture
async def glacier() -> AsyncIterator[Glacier]:
    async with Glacier.serve() as served:
        yield served


@pytest.fixture
def settings(settings: Settings, glacier: Glacier) -> Settings:
    """A store and an archive of the test's own, whose archived objects sleep."""
    changed = {
        "store_url": "s3://hot",
        "archive_url": "s3://cold/old",
        "archive_storage_class": SLEEPING,
        "store_endpoint": glacier.url,
    }
    return settings.model_copy(update=changed)


@pytest.fixture(autouse=True)
async def marked(settings: Settings, stack_settings: Settings) -> None:
    """The store belongs to the installation, as the stack's own does."""
    mark = await Blobs.from_settings(stack_settings).get(STORE_KEY)
    await Blobs.from_settings(settings).put(STORE_KEY, mark)


@pytest.fixture
async def old(settings: Settings, catalog: Catalog, sql: "asyncpg.Connection[asyncpg.Record]") -> list[Ldo]:
    """Seven LDOs that are due, and one that is not."""
    made = [ldo(number, uuid4().hex) for number in range(8)]
    await Line(settings, Blobs.from_settings(settings), catalog).take(*made)
    await grow_old(sql, [item.ldo_id for item in made[:7]])
    return made[:7]


async def archived(sql: "asyncpg.Connection[asyncpg.Record]") -> int:
    return int(await sql.fetchval("select count(*) from blobs where archived_at is not null"))


async def test_a_page_ends_where_it_has_looked_and_not_where_it_has_found(
    settings: Settings, old: list[Ldo], sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await archive(settings)
    assert await archived(sql) == 7
    back = [await sql.fetchval("select record_id from records where ldo_id = $1", old[6].ldo_id)]
    await sql.execute(
        "update blobs set archived_at = null where sha256 = (select digest from records where record_id = $1)", back[0]
    )
    await sql.execute("update outbox set published_at = now()")  # else the young one would have to stay
    monkeypatch.setattr(archives_module, "PAGE_ROWS", 2)
    after, result, pages = (0, UUID(int=0)), [], 0
    async with Archives.open(settings.postgres_dsn.get_secret_value()) as opened:
        now_us = await opened.now_us()
        while page := await opened.due(Kind.LDO, before_us=now_us, restored_days=0.0, after=after):
            assert len(page) <= 2
            after = (page[-1].ingested_at_us, page[-1].record_id)
            result += [item.record_id for item in page if item.blob is not None]
            pages += 1
    young = await sql.fetchval("select record_id from records where ingested_at > now() - interval '1 day'")
    assert (sorted(result), pages) == (sorted([*back, young]), 4)


async def test_a_restore_waits_for_what_sleeps_and_lets_others_have_their_turn(
    settings: Settings, glacier: Glacier, old: list[Ldo], sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await archive(settings)
    output: list[str] = []
    turns = 0

    async def sleep(_seconds: float) -> None:
        nonlocal turns
        turns += 1
        match turns:
            case 1:  # another archive begins while this one waits
                assert await sql.fetchval("select pg_try_advisory_lock($1)", COLLECTOR_LOCK)
            case 2:
                assert await archived(sql) == 7
                await sql.execute("select pg_advisory_unlock($1)", COLLECTOR_LOCK)
            case 3:  # the third look found it asleep still
                glacier.wake()

    report = await restore(settings, ArchiveSelection(kinds=(Kind.LDO,)), progress=output.append, sleep=sleep)
    assert turns == 3
    assert (report.bodies, report.waiting, report.failed) == (7, 0, {})
    assert len(glacier.asked) == 1, "they lie in one pack"
    assert any("another archive, restore or repair is running" in line for line in output)
    assert await archived(sql) == 0
    blobs = Blobs.from_settings(settings)
    for item in old:
        digest = sha256_hex(canonical_body(item))
        row = await sql.fetchrow(
            "select store_key, store_offset, size_bytes from blobs where encode(sha256, 'hex') = $1", digest
        )
        assert row is not None
        assert sha256_hex(await blobs.get(row[0], offset=row[1] or 0, length=row[2])) == digest


async def test_a_restore_that_does_not_wait_says_what_is_on_its_way(settings: Settings, old: list[Ldo]) -> None:
    await archive(settings)
    report = await restore(settings, ArchiveSelection(kinds=(Kind.LDO,)), sleep=None)
    assert (report.bodies, report.waiting) == (0, len(old))


async def test_nothing_moves_while_a_deletion_may_still_be_under_way(
    settings: Settings, old: list[Ldo], sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await sql.execute("insert into collecting (store_key) values ('packs/left')")
    with pytest.raises(GcRunningError, match="a repair ended in the middle of a deletion"):
        await archive(settings)
    await sql.execute("update collecting set marked_at = now() - interval '1 hour'")
    assert (await archive(settings)).bodies == len(old)


@pytest.mark.parametrize("shrink", [None, False])
async def test_a_table_that_is_half_empty_and_small_is_given_back(
    shrink: bool | None, settings: Settings, old: list[Ldo], sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    size = "select pg_relation_size('outbox')"
    await _remember_many(sql)
    before = await sql.fetchval(size)
    report = await archive(settings, shrink=shrink)
    assert report.announcements_removed == _MANY + len(old)
    after = await sql.fetchval(size)
    assert (after < before / 10) is (shrink is None)


async def test_a_table_that_is_in_use_stays_as_it_is_and_the_archive_ends_well(
    settings: Settings, old: list[Ldo], sql: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await _remember_many(sql)
    before = await sql.fetchval("select pg_relation_size('outbox')")
    monkeypatch.setattr(archives_module, "LOCK_S_SHORT", 1)
    async with sql.transaction():
        await sql.fetchval("select count(*) from outbox")
        assert (await archive(settings)).bodies == len(old)
    assert await sql.fetchval("select pg_relation_size('outbox')") >= before / 2


async def _remember_many(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Add announcements that are over, and behind them one that is not: a plain vacuum cannot cut the table off."""
    await sql.execute("alter table outbox set (autovacuum_enabled = false)")
    await sql.execute(
        "insert into outbox (event_id, topic, record_id, created_at, published_at)"
        " select gen_random_uuid(), 'ingested.ldos.v1', gen_random_uuid(), now() - interval '91 days',"
        " case when number <= $1 then now() end from generate_series(1, $1::integer + 1) as number",
        _MANY,
    )
