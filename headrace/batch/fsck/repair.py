"""What a check found, mended as far as it can be. Each step may be repeated."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.batch.fsck.announcements import kind_in, out_of
from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import Messages
from headrace.batch.fsck.restore import Restore
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.schemas.digest import blob_key, sha256_hex
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import hash_of
from headrace.store.catalog.fsck_queries import FsckQueries, PackMember, RecordWithoutBlob, SingleBlob
from headrace.store.catalog.orphan_gc import DELETE_S_MAX, OrphanGc
from headrace.store.errors import BlobMissingError

REMOVED_SHARE_MAX = 0.01  # of all objects: more orphans than this are rather the wrong catalog than orphans
REMOVED_ALWAYS = 10  # but so few may always go, where there is a catalog at all
COLLECTED_AT_ONCE = 200
_GONE = "no copy is left: Kafka does not hold its message any more; restore it from a replica or a backup"
_GONE_FOR_GOOD = "the archive has the only copy: restore the object from a replica or a backup of it"
_NOT_OURS = "nothing is removed from the archive by a repair: see that it is this catalog's, then remove it by hand"
_BODY_MEDIA_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class RepairDeps:
    """What a repair works with."""

    blobs: Blobs
    inventory: FsckQueries
    messages: Messages
    collection: OrphanGc
    restore: Restore


class Repair:
    """Mends the findings of one report, which it completes with what became of them."""

    def __init__(self, tools: RepairDeps, report: FsckReport, *, force: bool) -> None:
        self._tools = tools
        self._report = report
        self._force = force

    async def run(self) -> None:
        """Bytes first, then rows, then announcements; what is to be removed comes last."""
        for problem in FsckProblem:
            some = [found for found in self._report.found if found.problem is problem]
            for found in some:
                if found.in_archive:
                    self._cannot(found, _NOT_OURS if problem is FsckProblem.OBJECT_WITHOUT_ROW else _GONE_FOR_GOOD)
            if here := [found for found in some if not found.in_archive]:
                await self._heal(problem, here)

    async def _heal(self, problem: FsckProblem, some: list[Finding]) -> None:
        match problem:
            case FsckProblem.OBJECT_WITHOUT_ROW:
                await self._orphans(some)
            case FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT:
                await self._announcements(some)
            case FsckProblem.RECORD_WITHOUT_BLOB:
                bodiless = {one.record_id: one for one in await self._tools.inventory.records_without_blob()}
                for found in some:
                    assert found.record_id is not None
                    await self._row(found, bodiless.get(found.record_id))
            case _:
                for found in some:
                    await self._heal_one(found)

    async def _heal_one(self, found: Finding) -> None:
        match found.problem:
            case FsckProblem.ANNOUNCEMENT_LATE:
                self._cannot(found, "only a relay can publish them: see that `headrace relay` runs")
            case FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD:
                await self._dangling(found)
            case FsckProblem.STAGED_ABANDONED:
                await self._tools.blobs.delete(found.name)
                self._healed(found, "removed")
            case _:
                await (self._pack(found) if found.is_pack else self._alone(found))

    async def _alone(self, found: Finding) -> None:
        assert found.digest is not None
        body = await self._tools.restore.body(found.digest)
        if body is None:
            self._cannot(found, _GONE)
            return
        await self._put(found.name, body)
        self._healed(found, "written again from its message in Kafka")

    async def _pack(self, found: Finding) -> None:
        """Write a pack again as it was; where a part of it is unknown, each blob as an object of its own."""
        assert found.digest is not None
        members = await self._tools.inventory.members(found.name)
        bodies = await self._bodies(found.name, members)
        known = [(one.digest.hex(), bodies[one.digest]) for one in members if one.digest in bodies]
        if len(known) == len(members):
            tar, _ = pack.build(known)
            if sha256_hex(tar) == found.digest:
                await self._put(found.name, tar)
                self._healed(found, f"written again with all of its {len(members)} blobs")
                return
        for digest, body in known:
            await self._put(blob_key(digest), body, _BODY_MEDIA_TYPE)
            await self._tools.inventory.move_blob(bytes.fromhex(digest), blob_key(digest))
        lost = [one.digest.hex() for one in members if one.digest not in bodies]
        if lost:
            self._cannot(found, f"{len(known)} blobs are objects of their own now; lost: {', '.join(lost)}: {_GONE}")
        else:
            self._healed(found, f"its {len(known)} blobs are objects of their own now")

    async def _bodies(self, key: str, members: Sequence[PackMember]) -> dict[bytes, bytes]:
        """Return what is left of a pack, and from Kafka what is not."""
        try:
            data = await self._tools.blobs.get(key)
        except BlobMissingError:
            data = b""
        bodies = {}
        for one in members:
            body: bytes | None = data[one.store_offset : one.store_offset + one.size_bytes]
            if sha256_hex(body or b"") != one.digest.hex():
                body = await self._tools.restore.body(one.digest.hex())
            if body is not None:
                bodies[one.digest] = body
        return bodies

    async def _row(self, found: Finding, record: RecordWithoutBlob | None) -> None:
        if record is None:
            self._healed(found, "it is there by now")
            return
        digest = record.digest.hex()
        key, how = blob_key(digest), "its object was there, and is named again"
        if await hash_of(self._tools.blobs, key) != digest:
            body = await self._tools.restore.body(digest)
            if body is None:
                self._cannot(found, _GONE)
                return
            await self._put(key, body, record.media_type)
            how = "written again from its message in Kafka"
        await self._tools.inventory.add_blob(SingleBlob(record.digest, record.size_bytes, record.media_type, key))
        self._healed(found, how)

    async def _announcements(self, some: list[Finding]) -> None:
        records = [found.record_id for found in some if found.record_id is not None]
        # A row that was lost after it was published must not be published again.
        out = await out_of(self._tools.messages, records)
        for found in some:
            assert found.record_id is not None
            is_out = found.record_id in out
            await self._tools.inventory.add_announcement(found.record_id, kind_in(found), is_out=is_out)
            if not is_out:
                await self._tools.inventory.announce_again(found.record_id)
            self._healed(found, "it is out, and noted as that" if is_out else "given to the relay")

    async def _dangling(self, found: Finding) -> None:
        if found.outbox_id is None:
            self._cannot(found, "consumers have seen it: restore the record from a backup, or publish its source again")
            return
        await self._tools.inventory.drop_announcement(found.outbox_id)
        self._healed(found, "taken out of the outbox")

    async def _orphans(self, some: list[Finding]) -> None:
        objects = self._report.checked.get("objects", 0)
        allowed = max(REMOVED_ALWAYS, int(objects * REMOVED_SHARE_MAX)) if self._report.checked.get("blobs") else 0
        if len(some) > allowed and not self._force:
            for found in some:
                self._cannot(found, f"{len(some)} of {objects} objects would be removed, {allowed} may be: see --force")
            return
        for start in range(0, len(some), COLLECTED_AT_ONCE):
            await self._collect(some[start : start + COLLECTED_AT_ONCE])

    async def _collect(self, some: Sequence[Finding]) -> None:
        """Remove objects as `headrace/store/catalog/orphan_gc.py` argues; an error leaves the marks: a request may
        be on its way.
        """
        marked_s = time.monotonic()
        free = set(await self._tools.collection.mark([found.name for found in some]))
        reached(CrashPoint.COLLECT_AFTER_MARK)
        for found in some:
            if found.name not in free:
                self._healed(found, "a row names it by now")
            elif time.monotonic() - marked_s > DELETE_S_MAX:
                self._cannot(found, "the store was too slow for it: run it again")
            else:
                reached(CrashPoint.COLLECT_BEFORE_DELETE)
                await self._tools.blobs.delete(found.name)
                reached(CrashPoint.COLLECT_AFTER_DELETE)
                self._healed(found, "removed")
        reached(CrashPoint.COLLECT_BEFORE_RELEASE)
        await self._tools.collection.release()

    async def _put(self, key: str, body: bytes, media_type: str | None = None) -> None:
        media_type = media_type or (pack.MEDIA_TYPE if key.startswith("packs/") else None)
        await self._tools.blobs.replace(key, body, media_type=media_type)

    def _healed(self, found: Finding, how: str) -> None:
        self._report.healed.append((found, how))

    def _cannot(self, found: Finding, why: str) -> None:
        self._report.unhealed.append((found, why))
