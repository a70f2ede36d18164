"""The store against the catalog: what is listed, what rows say, and what the bytes hash to.

Ingestion may go on meanwhile. An object is put before its row is committed, so the store is listed before the rows
are read: an object that lacks its row may be young, which its age tells; a row that lacks its object is looked up once
more.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.store.blobs.blob_store import Blobs, BlobStat
from headrace.store.blobs.staging import PROMOTING_PREFIX, STAGING_PREFIX
from headrace.store.blobs.verified_read import hash_of
from headrace.store.catalog.fsck_queries import FsckQueries, PackRows, SingleBlob
from headrace.store.errors import BlobMissingError

READS_AT_ONCE_MAX = 8
YOUNG_NAMED_MAX = 1000

_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})")
_PACK = re.compile(r"packs/sha256/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})\.tar")
_PREFIXES = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Ages:
    """Before when an object must have been written to count as left behind."""

    orphans: datetime
    staged: datetime
    promoting: datetime


@dataclass
class Sampler:
    """Chooses which objects are read: all of them as they come, or so many, drawn while they pass (algorithm R)."""

    size: int | None
    draw: random.Random
    kept: list[tuple[str, str, bool]] = field(default_factory=list)
    _seen: int = 0

    def offer(self, key: str, digest: str, *, is_pack: bool) -> None:
        """Take an object into account."""
        self._seen += 1
        if self.size is None or len(self.kept) < self.size:
            self.kept.append((key, digest, is_pack))
        elif (place := self.draw.randrange(self._seen)) < self.size:
            self.kept[place] = (key, digest, is_pack)

    def take(self, *, last: bool = False) -> list[tuple[str, str, bool]]:
        """Return what is to be read now: with a sample, everything at the end."""
        if self.size is not None and not last:
            return []
        kept, self.kept = self.kept, []
        return kept


class ObjectCheck:
    """One pass over everything in the store."""

    def __init__(
        self,
        blobs: Blobs,
        inventory: FsckQueries,
        report: FsckReport,
        *,
        ages: Ages,
        sampler: Sampler,
        in_archive: bool = False,
    ) -> None:
        """Compare the store, or with `in_archive` the archive, with an inventory of the same."""
        self._blobs = blobs
        self._inventory = inventory
        self._report = report
        self._ages = ages
        self._sampler = sampler
        self._in_archive = in_archive

    async def run(self) -> None:
        """Compare names, sizes and bytes; findings go into the report."""
        await self._alone()
        await self._packs()
        await self._read(self._sampler.take(last=True))
        await self._drop_what_moved()
        if not self._in_archive:
            await self._left_behind(STAGING_PREFIX, self._ages.staged)
            await self._left_behind(PROMOTING_PREFIX, self._ages.promoting)

    async def _alone(self) -> None:
        waiting = set(_PREFIXES)
        async for prefix, objects in self._listed_by_prefix():
            waiting.discard(prefix)
            await self._compare(prefix, objects)
        for prefix in sorted(waiting):
            await self._compare(prefix, {})

    async def _listed_by_prefix(self) -> AsyncIterator[tuple[str, dict[str, BlobStat]]]:
        """Yield objects in runs of one prefix. Stores list in order; where one does not, a prefix comes in parts."""
        prefix, objects = "", dict[str, BlobStat]()
        async with aclosing(self._blobs.list("blobs/")) as listing:
            async for stat in listing:
                self._count("objects")
                digest = _digest_of(stat.key, _BLOB, blob_key)
                if digest is None:
                    self._without_row(stat)
                    continue
                if digest[:2] != prefix and objects:
                    yield prefix, objects
                    objects = {}
                prefix = digest[:2]
                objects[digest] = stat
        if objects:
            yield prefix, objects

    async def _compare(self, prefix: str, objects: dict[str, BlobStat]) -> None:
        async with aclosing(self._inventory.alone(prefix)) as rows:
            async for row in rows:
                self._count("blobs")
                await self._compare_one(row, objects.pop(row.digest.hex(), None))
        for stat in objects.values():
            self._without_row(stat)
        await self._read(self._sampler.take())

    async def _compare_one(self, row: SingleBlob, stat: BlobStat | None) -> None:
        digest = row.digest.hex()
        if stat is None or stat.key != row.store_key:
            stat = await self._blobs.stat(row.store_key)
        if stat is None:
            self._found(FsckProblem.OBJECT_MISSING, row.store_key, f"{row.size_bytes} bytes are gone", digest)
        elif stat.size_bytes != row.size_bytes:
            detail = f"{stat.size_bytes} bytes instead of {row.size_bytes}"
            self._found(FsckProblem.SIZE_DIFFERS, row.store_key, detail, digest)
        else:
            self._sampler.offer(row.store_key, digest, is_pack=False)

    async def _packs(self) -> None:
        listed: dict[str, BlobStat] = {}
        async with aclosing(self._blobs.list("packs/")) as listing:
            async for stat in listing:
                listed[stat.key] = stat
        self._count("objects", len(listed))
        rows = await self._inventory.packs()
        self._count("packs", len(rows))
        for key, stat in listed.items():
            if key not in rows:
                self._without_row(stat)
        for key, said in rows.items():
            self._count("blobs", said.members)
            await self._compare_pack(key, said, listed.get(key))

    async def _compare_pack(self, key: str, said: PackRows, stat: BlobStat | None) -> None:
        stat = stat or await self._blobs.stat(key)
        digest = _digest_of(key, _PACK, pack_key) or ""
        if stat is None:
            self._found(FsckProblem.OBJECT_MISSING, key, f"{said.members} blobs lie in it", digest, is_pack=True)
        elif stat.size_bytes < said.end_bytes:
            detail = f"{stat.size_bytes} bytes, and its last blob ends at {said.end_bytes}"
            self._found(FsckProblem.SIZE_DIFFERS, key, detail, digest, is_pack=True)
        else:
            self._sampler.offer(key, digest, is_pack=True)

    async def _read(self, chosen: Iterable[tuple[str, str, bool]]) -> None:
        room = asyncio.Semaphore(READS_AT_ONCE_MAX)

        async def one(key: str, digest: str, is_pack: bool) -> None:  # noqa: FBT001
            async with room:
                await (self._hash_pack(key, digest) if is_pack else self._hash_alone(key, digest))

        async with asyncio.TaskGroup() as group:
            for key, digest, is_pack in chosen:
                group.create_task(one(key, digest, is_pack))

    async def _hash_alone(self, key: str, digest: str) -> None:
        found = await hash_of(self._blobs, key)
        self._count("hashed")
        if found is None:
            self._found(FsckProblem.OBJECT_MISSING, key, "it went while it was read", digest)
        elif found != digest:
            self._found(FsckProblem.BYTES_DIFFER, key, f"its bytes hash to {found}", digest)

    async def _hash_pack(self, key: str, digest: str) -> None:
        self._count("hashed")
        try:
            data = await self._blobs.get(key)
        except BlobMissingError:
            self._found(FsckProblem.OBJECT_MISSING, key, "it went while it was read", digest, is_pack=True)
            return
        members = await self._inventory.members(key)
        wrong = [one.digest.hex() for one in members if not _holds(data, one.store_offset, one.size_bytes, one.digest)]
        if wrong or sha256_hex(data) != digest:
            said = f"{len(wrong)} of its {len(members)} blobs do not hash to their name: {', '.join(wrong[:5])}"
            detail = said if wrong else "no blob in it is damaged, but the tar around them is"
            self._found(FsckProblem.BYTES_DIFFER, key, detail, digest, is_pack=True)

    async def _left_behind(self, prefix: str, before: datetime) -> None:
        async with aclosing(self._blobs.list(prefix)) as listing:
            async for stat in listing:
                self._count("staged")
                if stat.modified_at < before:
                    since = f"{stat.size_bytes} bytes since {stat.modified_at.isoformat(timespec='seconds')}"
                    self._found(FsckProblem.STAGED_ABANDONED, stat.key, since)

    async def _drop_what_moved(self) -> None:
        """Take back what an archive or restore explains that went on meanwhile, or was ended and will go on."""
        ours = [found for found in self._report.found if found.in_archive == self._in_archive]
        missing = [found.name for found in ours if found.problem is FsckProblem.OBJECT_MISSING]
        named = await self._inventory.named(missing) if missing else set()
        left = await self._inventory.leavings()
        if await self._inventory.has_archived():
            orphans = [found.name for found in ours if found.problem is FsckProblem.OBJECT_WITHOUT_ROW]
            left |= {key for key in orphans if await self._blobs.stat(key) is None}
        dropped = {
            id(found)
            for found in ours
            if (found.problem is FsckProblem.OBJECT_MISSING and found.name not in named)
            or (found.problem is FsckProblem.OBJECT_WITHOUT_ROW and found.name in left)
        }
        self._report.found[:] = [found for found in self._report.found if id(found) not in dropped]

    def _without_row(self, stat: BlobStat) -> None:
        if stat.modified_at < self._ages.orphans:
            self._found(FsckProblem.OBJECT_WITHOUT_ROW, stat.key, f"{stat.size_bytes} bytes that no row names")
        elif len(self._report.young) < YOUNG_NAMED_MAX:
            self._report.young.append(stat.key)

    def _count(self, what: str, number: int = 1) -> None:
        self._report.count(f"archived_{what}" if self._in_archive else what, number)

    def _found(
        self, problem: FsckProblem, name: str, detail: str, digest: str | None = None, *, is_pack: bool = False
    ) -> None:
        self._report.found.append(Finding(problem, name, detail, digest, is_pack=is_pack, in_archive=self._in_archive))


def _digest_of(key: str, pattern: "re.Pattern[str]", key_of: object) -> str | None:
    """Return the digest in a key; None where it is no key that the service would make."""
    match = pattern.fullmatch(key)
    return match[1] if match and callable(key_of) and key_of(match[1]) == key else None


def _holds(data: bytes, offset: int, size: int, digest: bytes) -> bool:
    return sha256(memoryview(data)[offset : offset + size]).digest() == digest
