"""What the service and its commands do again and again with tables that grow, each carried out by the real code.

`tests/store/test_linear.py` carries them out on tables of a modest size, and `python -m tests.proofs catalog` on large
ones. The rows are those of `many_rows.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from headrace.schemas.digest import event_id, record_id
from headrace.schemas.events import Kind
from headrace.schemas.topics import ingested_topic
from headrace.store.catalog.archives import Archives
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.erasures import Erasures, Target
from headrace.store.catalog.expiry import Expiry
from headrace.store.catalog.fsck_queries import FsckQueries
from headrace.store.catalog.ldos import Ldos
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.catalog.outbox import Outbox, PublishedEvent
from headrace.store.postgres import STATEMENT_S_MAX, connected
from headrace.store.requests.access import Access
from headrace.store.requests.ingest_requests import Captures, IngestRequests
from headrace.store.requests.uploads import NewUpload, Uploads
from tests.servers import pool_of
from tests.store.many_rows import digest_of, event_of, key_of, pack_of

Step: TypeAlias = Callable[[str, int], Awaitable[None]]
"""Does a step in the database with this address, whose large tables have so many rows."""

DAY_US = 86_400_000_000
LARGE_ROWS_MIN = 1000


def unpublished(rows: int) -> range:
    """Return the numbers of the announcements that wait."""
    return range(rows - 50, rows)


async def prepare(connection: Any, rows: int) -> None:
    """Let announcements wait, and let moves have left objects behind."""
    events = [event_of(number) for number in unpublished(rows)]
    await connection.execute("update outbox set published_at = null where event_id = any($1)", events)
    await connection.execute("insert into leavings values ('store', $1), ('archive', $2)", key_of(9), pack_of(1))
    await connection.execute("vacuum analyze")


@asynccontextmanager
async def outbox_of(dsn: str) -> AsyncIterator[Outbox]:
    outbox = await Outbox.open(dsn, may_be_older=True)
    try:
        yield outbox
    finally:
        await outbox.close()


def _events() -> list[PublishedEvent]:
    digest = digest_of(3)
    announced = PublishedEvent(event_id(record_id(Kind.FRAME, digest)), digest)
    rejected = PublishedEvent(uuid4(), "edge.cids.v1/0/7")
    return [announced, rejected]


async def mark_seen(dsn: str, rows: int) -> None:
    async with outbox_of(dsn) as outbox:
        events = [event_of(number) for number in unpublished(rows)]
        assert sum([await outbox.mark_seen(ingested_topic(kind).name, events) for kind in Kind]) == len(events)


async def unknown(dsn: str, rows: int) -> None:
    async with outbox_of(dsn) as outbox:
        events = _events()
        assert await outbox.unknown(events) == [event.event_id for event in events]


async def prune_outbox(dsn: str, rows: int) -> None:
    async with Expiry.open(dsn) as opened:
        pruned = await opened.prune_outbox(98)
    assert (pruned.removed > 0, pruned.unannounced) == (True, None)


async def forget_learned(dsn: str, rows: int) -> None:
    async with Expiry.open(dsn) as opened:
        assert await opened.forget_learned(98) > 0


async def forget_erased(dsn: str, rows: int) -> None:
    async with Expiry.open(dsn) as opened:
        assert await opened.forget_erased(98) > 0


async def positions(dsn: str, rows: int) -> None:
    async with FsckQueries.open(dsn) as queries:
        digest = bytes.fromhex(digest_of(3))
        assert await queries.positions(digest) == [], "the ids of these records do not follow from their digests"
        assert await queries.media_type(digest) is not None


async def summarize(dsn: str, rows: int) -> None:
    async with connected(dsn, statement_s_max=STATEMENT_S_MAX, application="headrace erase") as connection:
        erasures = Erasures(connection, dsn)
        erasure = await erasures.begin(uuid4(), Target(record_ids=(uuid4(),)), actor="", reason="")
        assert (await erasures.summary(erasure))["subjects"] == 0
        assert not await erasures.has_announcements(erasure)
        await erasures.finish(erasure, "{}", None)


async def named(dsn: str, rows: int) -> None:
    async with FsckQueries.open(dsn) as queries:
        keys = {key_of(9), pack_of(5000)}
        assert await queries.named([*keys, key_of(rows + 9), pack_of(10 * rows), "blobs/elsewhere"]) == keys


async def members(dsn: str, rows: int) -> None:
    async with FsckQueries.open(dsn) as queries:
        assert len(await queries.members(pack_of(5000))) == 500
        assert not await queries.has_archived()


async def mark_orphans(dsn: str, rows: int) -> None:
    orphans = {key_of(rows + 9), pack_of(10 * rows), "blobs/elsewhere"}
    async with OrphanGc.open(dsn) as orphan_gc:
        assert set(await orphan_gc.mark([*orphans, key_of(9), pack_of(5000)])) == orphans
        await orphan_gc.release()


async def due(dsn: str, rows: int) -> None:
    async with Archives.open(dsn) as archives:
        before_us = await archives.now_us() - 50 * DAY_US
        page = await archives.due(Kind.CLIP, before_us=before_us, restored_days=0, after=(0, UUID(int=0)))
        assert page
        assert {stale.is_free for stale in await archives.leavings()} == {False, True}


async def expire_letters(dsn: str, rows: int) -> None:
    async with DeadLetters.open(dsn) as letters:
        assert await letters.expire(98) > 0


async def list_ldos(dsn: str, rows: int) -> None:
    async with pool_of(dsn) as pool:
        ldos = Ldos(pool, dsn)
        assert await ldos.count(None) == rows * 4 // 10
        assert await ldos.count(["site-1/*"]) < rows
        assert len(await ldos.page(5000, 10, None)) == len(await ldos.page(500, 10, ["site-1/*"])) == 10


async def expire_audit(dsn: str, rows: int) -> None:
    async with pool_of(dsn) as pool:
        access = Access(pool, dsn)
        await access.expire_audit(98)
        await access.expire_answers(98 * 24)


async def expire_requests(dsn: str, rows: int) -> None:
    async with pool_of(dsn) as pool:
        await IngestRequests(pool, dsn).expire(98)


async def recover_captures(dsn: str, rows: int) -> None:
    async with pool_of(dsn) as pool:
        captures = Captures(pool, dsn)
        assert await captures.unacquired("requested", 1)
        assert not await captures.release_expired_leases(["capturing"], 1)


async def add_upload(dsn: str, rows: int) -> None:
    new = NewUpload(upload_id=uuid4(), actor="key 0", site="site", source_id="source", length_bytes=1, metadata="{}")
    async with pool_of(dsn) as pool:
        uploads = Uploads(pool, dsn)
        assert await uploads.add(new, 1, open_max=10) is None
        assert await uploads.unassembled(10) == []


STEPS = (
    *(mark_seen, unknown, prune_outbox, forget_learned, forget_erased, positions, summarize),
    *(named, members, mark_orphans, due, expire_letters),
    *(list_ldos, expire_audit, expire_requests, recover_captures, add_upload),
)


async def tables_scanned(connection: Any, dsn: str, rows: int, step: Step) -> dict[str, int]:
    """Do a step; return how often it read each large table as a whole, by PostgreSQL's own counters."""
    await _settled(connection)
    before = await _scans(connection)
    await step(dsn, rows)
    await _settled(connection)
    after = await _scans(connection)
    return {table: number - before[table] for table, number in after.items() if number > before[table]}


async def _scans(connection: Any) -> dict[str, int]:
    """Return the number of sequential scans of each large table."""
    await connection.execute("select pg_stat_clear_snapshot()")
    rows = await connection.fetch(
        "select s.relname, s.seq_scan from pg_stat_user_tables as s join pg_class as c on c.oid = s.relid"
        f" where c.reltuples > {LARGE_ROWS_MIN}"
    )
    return dict(rows)


async def _settled(connection: Any) -> None:
    """Wait until the other sessions are over: their counters are written at their end."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    others += " and backend_type = 'client backend'"
    while await connection.fetchval(others):  # noqa: ASYNC110 - no event tells of the end of another session
        await asyncio.sleep(0.01)
