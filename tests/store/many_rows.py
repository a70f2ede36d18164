"""Fills a catalog with rows that PostgreSQL generates itself: tables of a size at which it plans as on large ones.

Row `number` of every table follows from the number. Records of 90 sources in 9 sites are ingested over 100 days, a
hundred at a time; half of the bodies lie in packs of five hundred.
"""

from datetime import datetime
from hashlib import md5, sha256
from typing import Any
from uuid import UUID

from headrace.schemas.digest import blob_key, pack_key

PACK_OF_ROWS = 1000
LARGE_TABLES = ("blobs", "records", "sightings", "outbox")
_NUMBERED = """
    select
        i,
        case when i % 10 < 4 then 'ldo' when i % 10 = 4 then 'cid' when i % 10 = 9 then 'clip' else 'frame' end as kind,
        i % 10 < 5 as packed,
        'site-' || i / 7 % 9 as site,
        'source-' || i / 7 % 90 as source_id,
        $4::timestamptz - interval '100 days' * (1 - (i / 100)::float8 * 100 / $3) as at
    from generate_series($1::bigint, $2::bigint) as i
"""
_ROWS = {
    "blobs": """
        insert into blobs (sha256, size_bytes, media_type, store_key, store_offset, created_at)
        select sha256(i::text::bytea), 2000, case when packed then 'application/json' else 'image/jpeg' end,
            case when packed then 'packs/sha256/' || left(p, 2) || '/' || substr(p, 3, 2) || '/' || p || '.tar'
            else 'blobs/sha256/' || left(d, 2) || '/' || substr(d, 3, 2) || '/' || d end,
            case when packed then i % 1000 * 3072 end, at
        from (
            select *, encode(sha256(i::text::bytea), 'hex') as d,
                encode(sha256(('pack' || i / 1000)::bytea), 'hex') as p
            from numbered
        ) as named
        on conflict do nothing""",
    "records": """
        insert into records (
            record_id, kind, digest, site, source_id, captured_at, sequence, media_type, size_bytes, ldo_id, code,
            ingested_at
        )
        select md5('record' || i)::uuid, kind, sha256(i::text::bytea), site, source_id, at, i, 'image/jpeg', 2000,
            case when kind = 'ldo' then 'ldo-' || i end, case when kind = 'cid' then 'PART-' || i end, at
        from numbered""",
    "sightings": """
        insert into sightings (topic, partition, "offset", record_id, site, source_id, captured_at, sequence, seen_at)
        select 'edge.' || kind || 's.v1', i / 7 % 4, i, md5('record' || i)::uuid, site, source_id, at, i, at
        from numbered""",
    "outbox": """
        insert into outbox (event_id, topic, record_id, created_at, published_at)
        select md5('event' || i)::uuid, 'ingested.' || kind || 's.v1', md5('record' || i)::uuid, at, at
        from numbered
        order by i""",
}
_SOURCES = """
    insert into sources (site, source_id, sequence_max, deliveries)
    select site, source_id, max(sequence), count(*) from sightings group by site, source_id
    on conflict do nothing"""
_OTHERS = """
    insert into dead_letters (
        dead_letter_id, code, reason, topic, partition, "offset", message_timestamp_us, rejected_at
    )
    select md5('letter' || i)::uuid, 'not_framed', '', 'edge.cids.v1', 0, i, 0, at from numbered;
    insert into announced (event_id, learned_at) select md5('learned' || i)::uuid, at from numbered;
    insert into erased_announcements (event_id, subject_id, erasure_id, noted_at)
    select md5('erased' || i)::uuid, md5('gone' || i)::uuid, md5('erasure' || i / 100)::uuid, at from numbered;
    insert into audit (at, actor, action) select at, 'key ' || i % 100, 'records' from numbered;
    insert into idempotency (actor, key, status, created_at) select 'key ' || i % 100, i::text, 200, at from numbered;
    insert into ingest_requests (request_id, kind, actor, site, source_id, state, created_at, updated_at)
    select md5('request' || i)::uuid, case when i % 100 = 0 then 'rtsp' else 'upload' end, '', site, source_id,
        case when i % 1000 = 0 then 'requested' else 'completed' end, at, at from numbered;
    insert into request_items (request_id, index) select md5('request' || i)::uuid, 0 from numbered;
    insert into request_events (request_id, site, source_id, state, at)
    select md5('request' || i)::uuid, site, source_id, 'completed', at from numbered;
    insert into uploads (upload_id, actor, site, source_id, state, created_at, expires_at)
    select md5('upload' || i)::uuid, 'key ' || i % 100, site, source_id,
        case when i % 100 = 0 then 'open' else 'done' end, now(), now() + interval '1 day' from numbered
"""


def event_of(number: int) -> UUID:
    """Return the id of an announcement."""
    return _uuid(f"event{number}")


def digest_of(number: int) -> str:
    """Return the digest of a blob."""
    return sha256(str(number).encode()).hexdigest()


def pack_of(number: int) -> str:
    """Return the key of the pack with the bodies of this thousand."""
    return pack_key(sha256(f"pack{number // PACK_OF_ROWS}".encode()).hexdigest())


def key_of(number: int) -> str:
    """Return the key of a blob that is an object of its own."""
    return blob_key(digest_of(number))


async def fill(connection: Any, count: int) -> None:
    """Insert `count` rows into every table that grows."""
    now = await connection.fetchval("select now()")
    for table in LARGE_TABLES:
        await fill_table(connection, table, range(1, count + 1), count=count, now=now)
    await fill_others(connection, count, now=now)


async def fill_table(connection: Any, table: str, numbers: range, *, count: int, now: datetime) -> None:
    """Insert the rows with these numbers into one of LARGE_TABLES, which is to have `count`, the last one `now`."""
    values = (numbers[0], numbers[-1], count, now)
    await connection.execute(f"with numbered as ({_NUMBERED}) {_ROWS[table]}", *values)


async def fill_others(connection: Any, count: int, *, now: datetime) -> None:
    """Insert the sources of the sightings, and `count` rows into every table that is not one of LARGE_TABLES."""
    await connection.execute(_SOURCES)
    values = (1, count, count, now)
    await connection.execute(f"create temporary table numbered as {_NUMBERED}", *values)
    await connection.execute(f"{_OTHERS}; drop table numbered")


def _uuid(text: str) -> UUID:
    return UUID(bytes=md5(text.encode(), usedforsecurity=False).digest())
