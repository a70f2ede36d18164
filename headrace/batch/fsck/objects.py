"""Compares the objects of a store with the catalog's rows: keys, sizes and hashes.

Ingestion may continue meanwhile. An object is put before its row is committed, so the store is listed before the rows
are read: an object without a row may be young, which its age tells; the object of a row that the listing lacks is
looked up again.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs, BlobStat
from headrace.store.blobs.staging import PROMOTING_PREFIX, QUARANTINE_PREFIX, STAGING_PREFIX
from headrace.store.blobs.verified_read import hash_of
from headrace.store.catalog.fsck_queries import FsckQueries, PackMember, PackRows, SingleBlob
from headrace.store.errors import BlobMissingError

CONCURRENT_READS_MAX = 8
YOUNG_NAMED_MAX = 1000
LOOKED_UP_MAX = 1000

_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})")
_PACK = re.compile(r"packs/sha256/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})\.tar")
_VANISHED = "it disappeared while it was read"
_PREFIXES = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class AgeLimits:
    """Objects written before these times count as abandoned."""

    orphans: datetime
    staged: datetime
    promoting: datetime
    quarantined: datetime


@dataclass(frozen=True, slots=True)
class ObjectScope:
    """The store to check, or with `in_archive` the archive, and the queries for its rows."""

    blobs: Blobs
    queries: FsckQueries
    ages: AgeLimits
    in_archive: bool = False


@dataclass(frozen=True, slots=True)
class SampledObject:
    """An object to read and hash."""

    key: str
    digest: str
    is_pack: bool


@dataclass
class Sampler:
    """Chooses the objects to read: all, or a random sample of a fixed size (reservoir sampling, algorithm R)."""

    size: int | None
    random: random.Random
    reservoir: list[SampledObject] = field(default_factory=list)
    _offered: int = 0

    def offer(self, sampled: SampledObject) -> None:
        """Offer an object to the sample."""
        self._offered += 1
        if self.size is None or len(self.reservoir) < self.size:
            self.reservoir.append(sampled)
        elif (index := self.random.randrange(self._offered)) < self.size:
            self.reservoir[index] = sampled

    def take(self, *, last: bool = False) -> list[SampledObject]:
        """Return the objects to read now; a sample of a fixed size is complete only at the end."""
        if self.size is not None and not last:
            return []
        taken, self.reservoir = self.reservoir, []
        return taken


class ObjectCheck:
    """One pass over all objects of a scope; findings go into the report."""

    def __init__(self, scope: ObjectScope, report: FsckReport, sampler: Sampler) -> None:
        self._scope = scope
        self._blobs = scope.blobs
        self._queries = scope.queries
        self._report = report
        self._sampler = sampler

    async def run(self) -> None:
        """Compare keys, sizes and bytes."""
        await self._check_single_blobs()
        await self._check_packs()
        await self._read(self._sampler.take(last=True))
        await self._drop_moved()
        if not self._scope.in_archive:
            await self._check_all_abandoned()

    async def find_abandoned(self) -> None:
        """Find only objects that may be deleted, by asking the catalog about the old ones of the listing."""
        for prefix in ("blobs/", "packs/"):
            old: list[BlobStat] = []
            async with aclosing(self._blobs.list(prefix)) as listing:
                async for stat in listing:
                    self._count("objects")
                    if stat.modified_at < self._scope.ages.orphans:
                        old.append(stat)
                    if len(old) == LOOKED_UP_MAX:
                        await self._look_up(old)
                        old = []
            await self._look_up(old)
        await self._drop_moved()
        await self._check_all_abandoned()

    async def _look_up(self, objects: list[BlobStat]) -> None:
        named = await self._queries.named([stat.key for stat in objects]) if objects else set()
        self._count("blobs", len(named))
        for stat in objects:
            if stat.key not in named:
                self._add_without_row(stat)

    async def _check_all_abandoned(self) -> None:
        await self._check_abandoned(STAGING_PREFIX, self._scope.ages.staged)
        await self._check_abandoned(PROMOTING_PREFIX, self._scope.ages.promoting)
        await self._check_abandoned(QUARANTINE_PREFIX, self._scope.ages.quarantined, FsckProblem.QUARANTINE_OVER)

    async def _check_single_blobs(self) -> None:
        unlisted = set(_PREFIXES)
        async for prefix, objects in self._list_by_prefix():
            unlisted.discard(prefix)
            await self._compare(prefix, objects)
        for prefix in sorted(unlisted):
            await self._compare(prefix, {})

    async def _list_by_prefix(self) -> AsyncIterator[tuple[str, dict[str, BlobStat]]]:
        """Yield objects by prefix. Stores list in order; in one that does not, a prefix comes in several parts."""
        prefix, objects = "", dict[str, BlobStat]()
        async with aclosing(self._blobs.list("blobs/")) as listing:
            async for stat in listing:
                self._count("objects")
                digest = _digest_of(stat.key, _BLOB, blob_key)
                if digest is None:
                    self._add_without_row(stat)
                    continue
                if digest[:2] != prefix and objects:
                    yield prefix, objects
                    objects = {}
                prefix = digest[:2]
                objects[digest] = stat
        if objects:
            yield prefix, objects

    async def _compare(self, prefix: str, objects: dict[str, BlobStat]) -> None:
        async with aclosing(self._queries.alone(prefix)) as rows:
            async for row in rows:
                self._count("blobs")
                await self._compare_blob(row, objects.pop(row.digest.hex(), None))
        for stat in objects.values():
            self._add_without_row(stat)
        await self._read(self._sampler.take())

    async def _compare_blob(self, row: SingleBlob, stat: BlobStat | None) -> None:
        digest = row.digest.hex()
        if stat is None or stat.key != row.store_key:
            stat = await self._blobs.stat(row.store_key)
        if stat is None:
            detail = f"{row.size_bytes} bytes are missing"
            self._add(FsckProblem.OBJECT_MISSING, row.store_key, detail, digest=digest)
        elif stat.size_bytes != row.size_bytes:
            detail = f"{stat.size_bytes} bytes instead of {row.size_bytes}"
            self._add(FsckProblem.SIZE_DIFFERS, row.store_key, detail, digest=digest)
        else:
            self._sampler.offer(SampledObject(row.store_key, digest, is_pack=False))

    async def _check_packs(self) -> None:
        listed: dict[str, BlobStat] = {}
        async with aclosing(self._blobs.list("packs/")) as listing:
            async for stat in listing:
                listed[stat.key] = stat
        self._count("objects", len(listed))
        packs = await self._queries.packs()
        self._count("packs", len(packs))
        for key, stat in listed.items():
            if key not in packs:
                self._add_without_row(stat)
        for key, rows in packs.items():
            self._count("blobs", rows.members)
            await self._compare_pack(key, rows, listed.get(key))

    async def _compare_pack(self, key: str, rows: PackRows, stat: BlobStat | None) -> None:
        stat = stat or await self._blobs.stat(key)
        digest = _digest_of(key, _PACK, pack_key) or ""
        if stat is None:
            detail = f"it contains {rows.members} blobs"
            self._add(FsckProblem.OBJECT_MISSING, key, detail, digest=digest, is_pack=True)
        elif stat.size_bytes < rows.end_bytes:
            detail = f"{stat.size_bytes} bytes, but its last blob ends at {rows.end_bytes}"
            self._add(FsckProblem.SIZE_DIFFERS, key, detail, digest=digest, is_pack=True)
        else:
            self._sampler.offer(SampledObject(key, digest, is_pack=True))

    async def _read(self, sampled: Iterable[SampledObject]) -> None:
        # A task for each object would take far more memory than the objects' names.
        left = iter(sampled)

        async def read() -> None:
            for chosen in left:
                check_hash = self._hash_pack if chosen.is_pack else self._hash_single
                await check_hash(chosen.key, chosen.digest)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENT_READS_MAX):
                group.create_task(read())

    async def _hash_single(self, key: str, digest: str) -> None:
        actual = await hash_of(self._blobs, key)
        self._count("hashed")
        if actual is None:
            self._add(FsckProblem.OBJECT_MISSING, key, _VANISHED, digest=digest)
        elif actual != digest:
            self._add(FsckProblem.BYTES_DIFFER, key, f"its bytes hash to {actual}", digest=digest)

    async def _hash_pack(self, key: str, digest: str) -> None:
        self._count("hashed")
        try:
            data = await self._blobs.get(key)
        except BlobMissingError:
            self._add(FsckProblem.OBJECT_MISSING, key, _VANISHED, digest=digest, is_pack=True)
            return
        members = await self._queries.members(key)
        corrupt = [member.digest.hex() for member in members if not _is_intact(data, member)]
        if corrupt or (sha256_hex(data) != digest and not _is_blanked(data, members)):
            named = f"{len(corrupt)} of its {len(members)} blobs are corrupt: {', '.join(corrupt[:5])}"
            detail = named if corrupt else "its blobs are intact, but the tar around them is corrupt"
            self._add(FsckProblem.BYTES_DIFFER, key, detail, digest=digest, is_pack=True)

    async def _check_abandoned(
        self, prefix: str, before: datetime, problem: FsckProblem = FsckProblem.STAGED_ABANDONED
    ) -> None:
        async with aclosing(self._blobs.list(prefix)) as listing:
            async for stat in listing:
                self._count("staged" if problem is FsckProblem.STAGED_ABANDONED else "quarantined")
                if stat.modified_at < before:
                    detail = f"{stat.size_bytes} bytes since {stat.modified_at.isoformat(timespec='seconds')}"
                    self._report.findings.append(Finding(problem, stat.key, detail, modified_at=stat.modified_at))

    async def _drop_moved(self) -> None:
        """Drop findings that an archive or restore job explains, which ran meanwhile or will resume."""
        in_scope = [finding for finding in self._report.findings if finding.in_archive == self._scope.in_archive]
        missing = [finding.name for finding in in_scope if finding.problem is FsckProblem.OBJECT_MISSING]
        referenced = await self._queries.named(missing) if missing else set()
        stale = await self._queries.leavings()
        if await self._queries.has_archived():
            orphans = [finding.name for finding in in_scope if finding.problem is FsckProblem.OBJECT_WITHOUT_ROW]
            stale |= {key for key in orphans if await self._blobs.stat(key) is None}

        def is_explained(finding: Finding) -> bool:
            match finding.problem:
                case FsckProblem.OBJECT_MISSING:
                    return finding.name not in referenced
                case FsckProblem.OBJECT_WITHOUT_ROW:
                    return finding.name in stale
                case _:
                    return False

        self._report.findings[:] = [
            finding
            for finding in self._report.findings
            if finding.in_archive != self._scope.in_archive or not is_explained(finding)
        ]

    def _add_without_row(self, stat: BlobStat) -> None:
        if stat.modified_at < self._scope.ages.orphans:
            self._add(FsckProblem.OBJECT_WITHOUT_ROW, stat.key, f"{stat.size_bytes} bytes that no row references")
        elif len(self._report.young) < YOUNG_NAMED_MAX:
            self._report.young.append(stat.key)

    def _count(self, what: str, number: int = 1) -> None:
        self._report.count(f"archived_{what}" if self._scope.in_archive else what, number)

    def _add(
        self, problem: FsckProblem, name: str, detail: str, *, digest: str | None = None, is_pack: bool = False
    ) -> None:
        in_archive = self._scope.in_archive
        self._report.findings.append(Finding(problem, name, detail, digest, is_pack=is_pack, in_archive=in_archive))


def _digest_of(key: str, pattern: re.Pattern[str], key_of: Callable[[str], str]) -> str | None:
    """Return the digest in a key; None if the service would not create such a key."""
    match = pattern.fullmatch(key)
    return match[1] if match and key_of(match[1]) == key else None


def _is_blanked(data: bytes, members: Sequence[PackMember]) -> bool:
    """Return whether an erasure has written a pack again without the bodies that no row refers to."""
    return pack.blanked(data, [(member.store_offset, member.size_bytes) for member in members]) == data


def _is_intact(data: bytes, member: PackMember) -> bool:
    body = memoryview(data)[member.store_offset : member.store_offset + member.size_bytes]
    return sha256(body).digest() == member.digest
