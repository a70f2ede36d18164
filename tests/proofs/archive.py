"""Half of many LDOs is older than 90 days: the archive takes them, killed three times, and brings a hundred back."""

import asyncio
import random
from collections.abc import Callable
from hashlib import sha256

from headrace.initialize import initialize
from infra.native import temporary_stack
from runtime.settings import Settings
from schemas.digest import pack_key, record_id, sha256_hex
from schemas.events import Kind
from schemas.topics import input_topic
from store import pack
from store.blobs import Blobs
from store.catalog import Catalog
from store.rows import Batch, BlobRow, RecordRow, SightingRow
from tests.conftest import settings_of
from tests.proofs.commands import Commands, connected

COUNT = 100_000
RESTORED = 100
KILLED_AT = (0.1, 0.35, 0.6)
"""The parts of what is old that are archived when a run is killed."""
_IN_A_PACK = 480  # so that one pack holds old and young ones
_BYTES_PER_S = 4 * 1024 * 1024  # slow enough to be met in the middle
_CAPTURED_AT_US = 1_790_000_000_000_000
_GROW_OLD = """
with old as (
    update records set ingested_at = ingested_at - interval '91 days' where sequence < %s returning record_id
)
update outbox as o set created_at = o.created_at - interval '91 days' from old where o.record_id = old.record_id
"""


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Archive half of `count` LDOs with three kills, restore some, and return what did not hold."""
    wrong: list[str] = []
    with temporary_stack("minio", progress=say) as stack:
        settings = settings_of(stack)
        initialize(settings)
        asyncio.run(_ingest(settings, count))
        old = count // 2
        with connected(settings) as sql:
            sql.execute("update outbox set published_at = now()")
            sql.execute(_GROW_OLD, (old,))
            # Whatever the preparation left behind must not count as what the archive made smaller.
            sql.execute("vacuum full analyze")
            commands = Commands(settings, HEADRACE_ARCHIVE_BYTES_PER_S=str(_BYTES_PER_S))

            def number(statement: str) -> int:
                row = sql.execute(statement).fetchone()
                return int(row[0]) if row else 0

            def archived() -> int:
                return number("select count(*) from blobs where archived_at is not null")

            before = number("select pg_database_size(current_database())")
            dry = commands.run("archive", "--dry-run", "--json")
            say(f"{count} LDOs, {dry['bodies']} of them to go; the database has {before} bytes")
            for part in KILLED_AT:
                commands.kill("archive", when=lambda part=part: archived() >= part * old)  # type: ignore[misc]
                left = number("select count(*) from leavings")
                say(f"killed with {archived()} archived, {left} objects noted as perhaps left over")
                if not 0 < archived() < old:
                    wrong.append("a kill did not meet the run in the middle")
            last = commands.run("archive", "--shrink", "--json")
            after = number("select pg_database_size(current_database())")
            say(f"the last run moved {last['bodies']} and removed {last['announcements_removed']} announcements; "
                f"the database has {after} bytes, {after / before:.2f} of before")  # fmt: skip
            wrong += [] if after < before else ["PostgreSQL is not smaller"]
            wrong += asyncio.run(_places(settings, archived=old, count=count, say=say))
            again = commands.run("archive", "--json")
            wrong += [] if again["bodies"] == 0 else [f"a second run moved {again['bodies']}"]

            some = sql.execute(
                "select encode(sha256, 'hex') from blobs where archived_at is not null order by sha256 limit %s",
                (RESTORED,),
            ).fetchall()
            digests = [str(row[0]) for row in some]
            commands.run("get", digests[0], "-o", "/dev/null", code=1)
            back = commands.run("restore", *digests, "--json")
            say(f"restored {back['bodies']}")
            for digest in (digests[0], digests[-1]):
                commands.run("get", digest, "-o", "/dev/null")
            wrong += asyncio.run(_places(settings, archived=old - RESTORED, count=count, say=say))
            commands.run("fsck", "--sample", "100", "--json")
            say("fsck: everything agrees")
    return wrong


async def _ingest(settings: Settings, count: int) -> None:
    catalog, blobs = await Catalog.open(settings.postgres_dsn.get_secret_value()), Blobs.from_settings(settings)
    drawn = random.Random(1)
    for first in range(0, count, _IN_A_PACK):
        numbers = range(first, min(count, first + _IN_A_PACK))
        bodies = [
            b'{"ldo_id":"e-%d","sensor_data":{"trace":"%b"},"context":{},"prediction":{}}'
            % (number, drawn.randbytes(400).hex().encode())
            for number in numbers
        ]
        digests = [sha256_hex(body) for body in bodies]
        tar, places = pack.build(list(zip(digests, bodies, strict=True)))
        key = pack_key(sha256_hex(tar))
        await blobs.put(key, tar)
        batch = Batch(blobs=[], records=[], sightings=[], dead_letters=[])
        for number, digest, (offset, length) in zip(numbers, digests, places, strict=True):
            record, captured_at_us = record_id(Kind.LDO, digest), _CAPTURED_AT_US + number
            batch.blobs.append(BlobRow(
                digest=bytes.fromhex(digest), size_bytes=length, media_type="application/json", store_key=key,
                store_offset=offset,
            ))  # fmt: skip
            batch.records.append(RecordRow(
                record_id=record, kind=Kind.LDO, digest=bytes.fromhex(digest), site="plant",
                source_id=f"press-{number % 8}", captured_at_us=captured_at_us, sequence=number,
                media_type="application/json", size_bytes=length, ldo_id=f"e-{number}",
            ))  # fmt: skip
            batch.sightings.append(SightingRow(
                topic=input_topic(Kind.LDO).name, partition=number % 4, offset=number, record_id=record, site="plant",
                source_id=f"press-{number % 8}", captured_at_us=captured_at_us, sequence=number,
            ))  # fmt: skip
        await catalog.commit(batch)
    await catalog.close()


async def _places(settings: Settings, *, archived: int, count: int, say: Callable[[str], None]) -> list[str]:
    """Read every body where its row says it is; no object may be anywhere that no row names."""
    wrong: list[str] = []
    readable = {False: 0, True: 0}
    for cold, url in ((False, settings.store_url), (True, settings.archive_url)):
        blobs = Blobs.from_settings(settings.model_copy(update={"store_url": url}))
        with connected(settings) as sql:
            rows = sql.execute(
                "select sha256, size_bytes, store_key, store_offset from blobs where (archived_at is not null) = %s",
                (cold,),
            ).fetchall()
        keys = {row[2] for row in rows}
        held = {stat.key async for stat in blobs.list("")}
        wrong += [f"{url}: {len(held ^ keys)} objects differ from what the rows name"] if held != keys else []
        objects = {key: await blobs.get(key) for key in keys & held}
        for digest, size_bytes, key, offset in rows:
            body = objects.get(key, b"")[(offset or 0) : (offset or 0) + size_bytes]
            readable[cold] += sha256(body).digest() == digest
    say(f"readable with the right digest: {readable[False]} in the store, {readable[True]} in the archive")
    if (readable[False], readable[True]) != (count - archived, archived):
        wrong.append(f"should be {count - archived} in the store and {archived} in the archive")
    return wrong
