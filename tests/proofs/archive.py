"""The archive at full size: LDOs of which half are old, in MinIO and PostgreSQL, and a run that is killed three times.

Each kill is sent when the catalog shows that the run itself has archived something, and that the rest is still to go.
Between the runs and at the end every body is read from where its row says it is, and both buckets are listed down to
the members of their packs: a body that could be read from two places, or from none, is seen.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import asyncpg

from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, pack_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from tests.proofs.commands import Commands, connected
from tests.servers import settings_of

COUNT = 100_000
COUNT_MIN = 12_000  # of fewer the archive makes too few packs for a run to be killed three times in its middle

_BATCH = 480  # LDOs that are ingested together, of which one batch is partly old and partly young
_LARGE_EVERY = 200  # one in so many is too large for a pack
_KILLED_AT = (0.12, 0.36, 0.6)  # of what is due, as the catalog has it
_MIDDLE_MAX = 0.8
_RUN_S = 40  # that one run would take by its rate alone, so that there is a middle
_RESTORED = 100
_CAPTURED_AT_US = 1_790_000_000_000_000


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Archive half of so many LDOs, killed three times, and bring some back; return what did not hold."""
    assert count >= COUNT_MIN, f"at least {COUNT_MIN}"
    with temporary_stack("minio", services=(), progress=say) as stack:
        settings = settings_of(stack)
        initialize(settings)
        return asyncio.run(Proof(settings, count, say).run())


class Proof:
    """The LDOs, the commands that are run on them, and what did not hold so far."""

    def __init__(self, settings: Settings, count: int, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._count = count
        self._half = count // 2
        self._say = say
        self._wrong: list[str] = []
        self._old: set[str] = set()
        self._young: set[str] = set()
        self._beside_young: set[str] = set()
        self._old_bytes = 0
        self._commands = Commands(settings)
        self._sql: Any = None

    async def run(self) -> list[str]:
        self._sql = await asyncpg.connect(self._settings.postgres_dsn.get_secret_value())
        try:
            await self._ingest()
            # Slow enough to be met in the middle.
            rate = max(64 * 1024, self._old_bytes // _RUN_S)
            self._commands = Commands(self._settings, HEADRACE_ARCHIVE_BYTES_PER_S=str(rate))
            await self._archive()
            await self._again()
            await self._restore()
        finally:
            await self._sql.close()
        return self._wrong

    async def _ingest(self) -> None:
        began = time.monotonic()
        catalog = await Catalog.open(self._settings.postgres_dsn.get_secret_value())
        try:
            for start in range(0, self._count, _BATCH):
                await self._commit(catalog, start)
        finally:
            await catalog.close()
        # Nobody can wait for 90 days, nor does a relay run here: the catalog is told so.
        await self._sql.execute("update outbox set published_at = now()")
        await self._sql.execute(
            "with old as (update records set ingested_at = ingested_at - interval '91 days' where sequence < $1"
            " returning record_id) update outbox as o set created_at = created_at - interval '91 days'"
            " from old where o.record_id = old.record_id",
            self._half,
        )
        # The size before is the smallest that these rows can have: what is saved afterwards is no slack of the filling.
        await self._sql.execute("vacuum (full, analyze)")
        self._say(
            f"{self._count} LDOs ingested, {self._half} of them 91 days old ({self._old_bytes} bytes),"
            f" {time.monotonic() - began:.0f} s"
        )

    async def _commit(self, catalog: Catalog, start: int) -> int:
        """Store a batch as a worker does, and return how many records of it were new."""
        numbers = range(start, min(self._count, start + _BATCH))
        bodies = [_body(number) for number in numbers]
        blobs, rows = Blobs.from_settings(self._settings), list[BlobRow]()
        digests = [sha256_hex(body) for body in bodies]
        small = [(digest, body) for digest, body in zip(digests, bodies, strict=True) if len(body) < PACKED_BYTES_MAX]
        tar, places = pack.build(small)
        key = pack_key(sha256_hex(tar))
        packed = {digest: offset for (digest, _), (offset, _) in zip(small, places, strict=True)}
        known = (await catalog.look_up([bytes.fromhex(digest) for digest in digests])).blobs
        if not known:
            await blobs.put(key, tar)
        for number, digest, body in zip(numbers, digests, bodies, strict=True):
            if digest not in packed and not known:
                await blobs.put(blob_key(digest), body)
            rows.append(
                BlobRow(
                    digest=bytes.fromhex(digest),
                    size_bytes=len(body),
                    media_type="application/json",
                    store_key=key if digest in packed else blob_key(digest),
                    store_offset=packed.get(digest),
                )
            )
            if number >= self._half:
                self._young.add(digest)
            elif digest not in self._old:
                self._old.add(digest)
                self._old_bytes += len(body)
                if digest in packed and self._half < start + _BATCH:
                    self._beside_young.add(digest)
        numbered = list(zip(numbers, digests, bodies, strict=True))
        committed = await catalog.commit(
            RowBatch(
                blobs=rows,
                records=[_record(number, digest, len(body)) for number, digest, body in numbered],
                sightings=[_sighting(number + (10**9 if known else 0), digest) for number, digest, _ in numbered],
                dead_letters=[],
            )
        )
        return len(committed.new_records)

    async def _archive(self) -> None:
        before = await self._size()
        metadata = await self._metadata()
        dry = self._commands.run("archive", "--dry-run", "--json")
        self._expect("what a dry run counts", dry["bodies"], self._half)
        self._expect("archived after a dry run", await self._archived(), 0)
        for share in _KILLED_AT:
            await self._killed(share)
            await self._places(say=False)
        began = time.monotonic()
        done = self._commands.run("archive", "--json")
        self._say(f"the fourth run: {done['bodies']} bodies, {time.monotonic() - began:.0f} s")
        self._expect("bodies that failed", done["failed"], {})
        self._expect("archived", await self._archived(), self._half)
        self._expect("left to be removed", await self._value("select count(*) from leavings"), 0)
        self._expect("records and sightings are as before", await self._metadata(), metadata)
        self._expect("announcements kept", await self._value("select count(*) from outbox"), self._half)
        await self._places(say=True)
        after = await self._size()
        self._say(f"PostgreSQL: {before} bytes before, {after} after, {after / before:.1%}")
        if after >= before:
            self._wrong.append(f"PostgreSQL has {after} bytes, and had {before}")

    async def _killed(self, share: float) -> None:
        """Start a run, and kill it when it has archived something and so much of everything is archived."""
        at_start = await self._archived()
        with connected(self._settings) as sql:

            def is_in_the_middle() -> bool:
                row = sql.execute("select count(*) from blobs where archived_at is not null").fetchone()
                now = int(row[0]) if row else 0
                return now > at_start and now >= share * self._half

            await asyncio.to_thread(self._commands.kill, "archive", when=is_in_the_middle)
        now = await self._archived()
        left = await self._value("select count(*) from leavings")
        self._say(f"killed at {now} of {self._half}, {at_start} when it began; {left} objects unsettled")
        if not at_start < now < _MIDDLE_MAX * self._half:
            self._wrong.append(f"the run was not killed in its middle: {at_start} to {now} of {self._half}")

    async def _places(self, *, say: bool) -> None:
        """Read every body where its row says it is; at the end, see that it is in no other place."""
        result: dict[bool, set[str]] = {}
        held: dict[bool, set[str]] = {}
        for archived, url in ((False, self._settings.store_url), (True, self._settings.archive_url)):
            blobs = Blobs.from_settings(self._settings.model_copy(update={"store_url": url}))
            rows = await self._sql.fetch(
                "select encode(sha256, 'hex'), store_key, store_offset, size_bytes from blobs"
                " where (archived_at is not null) = $1 order by store_key",
                archived,
            )
            result[archived] = await self._readable(blobs, rows)
            held[archived] = await _held(blobs) if say else set()
        expected = self._old | self._young
        if result[False] | result[True] != expected:
            lost = len(expected - result[False] - result[True])
            self._wrong.append(f"{lost} bodies cannot be read where their row says they are")
        if say:
            self._say(
                f"read and hashed: {len(result[False])} bodies in the store, {len(result[True])} in the archive;"
                f" {len(held[False])} and {len(held[True])} lie there, {len(held[False] & held[True])} in both"
            )
            # One pack holds old and young ones: it stays until the last of them goes; no row of an old one names it.
            self._expect("bodies that lie in the store", held[False], result[False] | self._beside_young)
            self._expect("bodies that lie in the archive", held[True], result[True])
            self._expect("bodies in both", held[False] & held[True], self._beside_young)

    async def _readable(self, blobs: Blobs, rows: Sequence[Any]) -> set[str]:
        whole: set[str] = set()
        key, data = "", b""
        for digest, store_key, offset, size_bytes in rows:
            if store_key != key:
                key, data = store_key, await blobs.get(store_key)
            part = data[offset or 0 : (offset or 0) + size_bytes]
            if sha256(part).hexdigest() == digest:
                whole.add(digest)
        return whole

    async def _again(self) -> None:
        again = self._commands.run("archive", "--json")
        self._expect(
            "what a second run does", (again["bodies"], again["objects_written"], again["objects_removed"]), (0, 0, 0)
        )
        self._commands.run("fsck", "--json", "--sample", "200")
        self._commands.text("get", min(self._old), "-o", os.devnull, code=Exit.FAILED)
        catalog = await Catalog.open(self._settings.postgres_dsn.get_secret_value())
        try:
            new = await self._commit(catalog, 0)
        finally:
            await catalog.close()
        self._expect("new records of LDOs that come again", new, 0)
        self._expect("archived after they came again", await self._archived(), self._half)

    async def _restore(self) -> None:
        wanted = sorted(self._old)[:_RESTORED]
        began = time.monotonic()
        done = self._commands.run("restore", *wanted, "--json")
        self._say(f"restored {done['bodies']} bodies, {done['body_bytes']} bytes, {time.monotonic() - began:.1f} s")
        self._expect("restored", (done["bodies"], done["failed"]), (_RESTORED, {}))
        rows = await self._sql.fetch(
            "select encode(sha256, 'hex'), store_key, store_offset, size_bytes from blobs"
            " where archived_at is null and encode(sha256, 'hex') = any($1) order by store_key",
            wanted,
        )
        whole = await self._readable(Blobs.from_settings(self._settings), rows)
        self._expect("restored bodies whole in the store", whole, set(wanted))
        for digest in wanted[:3]:
            self._commands.text("get", digest, "-o", os.devnull)
        self._expect("archived after the restore", await self._archived(), self._half - _RESTORED)
        self._expect("moved by another archive", self._commands.run("archive", "--json")["bodies"], 0)
        fsck = self._commands.run("fsck", "--json")
        self._say(f"fsck: {fsck['checked']}, {sum(map(len, fsck['findings'].values()))} findings")

    async def _metadata(self) -> tuple[Any, ...]:
        """Return a digest of every record and sighting."""
        return tuple(
            [
                await self._value(f"select md5(string_agg(md5(t::text), '' order by t.*)) from {name} as t")
                for name in (
                    "(select record_id, digest, ldo_id, attributes::text, ingested_at from records)",
                    '(select topic, partition, "offset", record_id from sightings)',
                )
            ]
        )

    async def _archived(self) -> int:
        return int(await self._value("select count(*) from blobs where archived_at is not null"))

    async def _size(self) -> int:
        return int(await self._value("select pg_database_size(current_database())"))

    async def _value(self, query: str) -> Any:
        return await self._sql.fetchval(query)

    def _expect(self, what: str, result: object, expected: object) -> None:
        if result != expected:
            self._wrong.append(f"{what}: {str(result)[:200]} instead of {str(expected)[:200]}")


async def _held(blobs: Blobs) -> set[str]:
    """Return the digests of all bodies that lie in a place, those inside its packs among them."""
    digests: set[str] = set()
    async for stat in blobs.list(""):
        if stat.key.startswith("packs/"):
            digests |= set(_members(await blobs.get(stat.key)))
        else:
            digests.add(stat.key.rsplit("/", 1)[1])
    return digests


def _members(tar: bytes) -> Iterator[str]:
    offset = 0
    while tar[offset : offset + 1] not in {b"", b"\0"}:
        header = tar[offset : offset + pack.BLOCK_BYTES]
        yield header[:64].decode()
        size = int(header[124:135], 8)
        offset += pack.BLOCK_BYTES + size + -size % pack.BLOCK_BYTES


def _body(number: int) -> bytes:
    draw = random.Random(number)
    length = 40_000 if number % _LARGE_EVERY == 0 else draw.randrange(200, 600)
    trace = draw.randbytes(length).hex().encode()
    return b'{"ldo_id":"e-%d","sensor_data":{"trace":"%b"},"context":{},"prediction":{}}' % (number, trace)


def _record(number: int, digest: str, size_bytes: int) -> RecordRow:
    return RecordRow(
        record_id=record_id(Kind.LDO, digest),
        kind=Kind.LDO,
        digest=bytes.fromhex(digest),
        site="plant",
        source_id=f"press-{number % 8}",
        captured_at_us=_CAPTURED_AT_US + number,
        sequence=number,
        media_type="application/json",
        size_bytes=size_bytes,
        ldo_id=f"e-{number}",
    )


def _sighting(offset: int, digest: str) -> SightingRow:
    return SightingRow(
        topic="edge.ldos.v1",
        partition=offset % 4,
        offset=offset,
        record_id=record_id(Kind.LDO, digest),
        site="plant",
        source_id=f"press-{offset % 8}",
        captured_at_us=_CAPTURED_AT_US + offset,
        sequence=offset,
    )
