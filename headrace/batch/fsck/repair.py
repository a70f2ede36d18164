"""Repairs the findings of a check as far as possible. Each step may be repeated.

Lost or corrupt bytes are recovered from their messages: Kafka keeps a message for days after it was ingested, and each
record's sightings name its topic, partition and offset.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.batch.fsck.announcements import announced_among
from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from headrace.batch.fsck.messages import TopicMessages
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.schemas.codec import decode
from headrace.schemas.digest import blob_key, canonical_body, sha256_hex
from headrace.schemas.events import Cid, Ldo
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import INPUT_EVENTS
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import QUARANTINE_PREFIX, STAGING_PREFIX
from headrace.store.blobs.verified_read import hash_of
from headrace.store.catalog.fsck_queries import FsckQueries, MessagePosition, PackMember, RecordWithoutBlob, SingleBlob
from headrace.store.catalog.orphan_gc import DELETE_S_MAX, OrphanGc
from headrace.store.errors import BlobMissingError

REMOVED_SHARE_MAX = 0.01  # of all objects; more orphans than this suggest the wrong catalog
REMOVED_ALWAYS = 10  # which may always be removed if the catalog has any blobs
GC_BATCH_OBJECTS = 200
_LOST = "no copy is left: Kafka no longer has its message; restore it from a replica or a backup"
_LOST_IN_ARCHIVE = "the archive has the only copy: restore the object from a replica or a backup of it"
_ARCHIVE_ORPHAN = "a repair removes nothing from the archive: check that it is this catalog's, then remove it by hand"


class BodyRecovery:
    """Finds another copy of a blob in Kafka; it is used only if it hashes to the blob's digest."""

    def __init__(self, queries: FsckQueries, messages: TopicMessages, blobs: Blobs) -> None:
        self._queries = queries
        self._messages = messages
        self._blobs = blobs

    async def body(self, digest: str) -> bytes | None:
        """Return the bytes with this digest from a retained message, or None."""
        for position in await self._queries.positions(bytes.fromhex(digest)):
            body = await self._body_at(position)
            if body is not None and await asyncio.to_thread(sha256_hex, body) == digest:
                return body
        return None

    async def _body_at(self, position: MessagePosition) -> bytes | None:
        value = await asyncio.to_thread(self._messages.value_at, position.topic, position.partition, position.offset)
        try:
            event = decode(value, INPUT_EVENTS[position.kind])
            if isinstance(event, Cid | Ldo):
                return canonical_body(event)
        except RejectedError:
            return None
        if event.body is not None or event.claim is None or not event.claim.startswith(STAGING_PREFIX):
            return event.body
        try:
            return await self._blobs.get(event.claim)
        except BlobMissingError:
            return None


@dataclass(frozen=True, slots=True)
class RepairDeps:
    """The services of a repair."""

    blobs: Blobs
    queries: FsckQueries
    messages: TopicMessages
    orphan_gc: OrphanGc
    recovery: BodyRecovery


class Repair:
    """Repairs the findings of a report, and adds the results to it."""

    def __init__(self, deps: RepairDeps, report: FsckReport, *, force: bool) -> None:
        self._blobs = deps.blobs
        self._queries = deps.queries
        self._messages = deps.messages
        self._orphan_gc = deps.orphan_gc
        self._recovery = deps.recovery
        self._report = report
        self._force = force

    async def run(self) -> None:
        """Repair bytes first, then rows, then announcements; removals come last."""
        for problem in FsckProblem:
            findings = [finding for finding in self._report.findings if finding.problem is problem]
            for finding in findings:
                if finding.in_archive:
                    is_orphan = problem is FsckProblem.OBJECT_WITHOUT_ROW
                    self._give_up(finding, _ARCHIVE_ORPHAN if is_orphan else _LOST_IN_ARCHIVE)
            if in_store := [finding for finding in findings if not finding.in_archive]:
                await self._repair(problem, in_store)

    async def _repair(self, problem: FsckProblem, findings: list[Finding]) -> None:
        match problem:
            case FsckProblem.OBJECT_WITHOUT_ROW:
                await self._remove_orphans(findings)
            case FsckProblem.RECORD_WITHOUT_ANNOUNCEMENT:
                await self._announce(findings)
            case FsckProblem.RECORD_WITHOUT_BLOB:
                records = {record.record_id: record for record in await self._queries.records_without_blob()}
                for finding in findings:
                    assert finding.record_id is not None
                    await self._restore_row(finding, records.get(finding.record_id))
            case _:
                for finding in findings:
                    await self._repair_single(finding)

    async def _repair_single(self, finding: Finding) -> None:
        match finding.problem:
            case FsckProblem.ANNOUNCEMENT_LATE:
                self._give_up(finding, "only a relay can publish them: check that `headrace relay` is running")
            case FsckProblem.ANNOUNCEMENT_WITHOUT_RECORD:
                await self._drop_announcement(finding)
            case FsckProblem.STAGED_ABANDONED | FsckProblem.QUARANTINE_OVER:
                await self._remove_abandoned(finding)
            case _:
                await (self._restore_pack(finding) if finding.is_pack else self._restore_object(finding))

    async def _remove_abandoned(self, finding: Finding) -> None:
        """Delete an object, unless it was written again since it was listed: a retry uploads to the same key."""
        stat = await self._blobs.stat(finding.name)
        if stat is None:
            self._heal(finding, "it is gone by now")
        elif finding.modified_at is None or stat.modified_at > finding.modified_at:
            self._heal(finding, "it was written again by now")
        else:
            await self._blobs.delete(finding.name)
            self._heal(finding, "removed")

    async def _restore_object(self, finding: Finding) -> None:
        assert finding.digest is not None
        body = await self._recovery.body(finding.digest)
        if body is None:
            self._give_up(finding, _LOST)
            return
        media_type = await self._queries.media_type(bytes.fromhex(finding.digest))
        await self._blobs.replace(finding.name, body, media_type=media_type)
        self._heal(finding, "rewritten from its message in Kafka")

    async def _restore_pack(self, finding: Finding) -> None:
        """Rewrite a pack as it was; if a part is lost, write each remaining blob as an object of its own."""
        assert finding.digest is not None
        members = await self._queries.members(finding.name)
        bodies = await self._pack_bodies(finding.name, members)
        known = [member for member in members if member.digest in bodies]
        if len(known) == len(members):
            tar, _ = pack.build([(member.digest.hex(), bodies[member.digest]) for member in known])
            if sha256_hex(tar) == finding.digest:
                await self._blobs.replace(finding.name, tar, media_type=pack.MEDIA_TYPE)
                self._heal(finding, f"rewritten with all of its {len(members)} blobs")
                return
        for member in known:
            key = blob_key(member.digest.hex())
            await self._blobs.replace(key, bodies[member.digest], media_type=member.media_type)
            await self._queries.move_blob(member.digest, key)
        lost = [member.digest.hex() for member in members if member.digest not in bodies]
        if lost:
            self._give_up(finding, f"{len(known)} blobs are objects of their own now; lost: {', '.join(lost)}: {_LOST}")
        else:
            self._heal(finding, f"its {len(known)} blobs are objects of their own now")

    async def _pack_bodies(self, key: str, members: Sequence[PackMember]) -> dict[bytes, bytes]:
        """Return the intact bodies of a pack, and the others as far as Kafka has them."""
        try:
            data = await self._blobs.get(key)
        except BlobMissingError:
            data = b""
        bodies = {}
        for member in members:
            body: bytes | None = data[member.store_offset : member.store_offset + member.size_bytes]
            if sha256_hex(body or b"") != member.digest.hex():
                body = await self._recovery.body(member.digest.hex())
            if body is not None:
                bodies[member.digest] = body
        return bodies

    async def _restore_row(self, finding: Finding, record: RecordWithoutBlob | None) -> None:
        if record is None:
            self._heal(finding, "it exists by now")
            return
        digest = record.digest.hex()
        key, how = blob_key(digest), "its object existed, and has a row again"
        if await hash_of(self._blobs, key) != digest:
            body = await self._recovery.body(digest)
            if body is None:
                self._give_up(finding, _LOST)
                return
            await self._blobs.replace(key, body, media_type=record.media_type)
            how = "rewritten from its message in Kafka"
        await self._queries.add_blob(SingleBlob(record.digest, record.size_bytes, record.media_type, key))
        self._heal(finding, how)

    async def _announce(self, findings: list[Finding]) -> None:
        records = [finding.record_id for finding in findings if finding.record_id is not None]
        # A record whose outbox row was lost after publishing must not be announced again.
        announced = await announced_among(self._messages, records)
        kinds = {finding.record_id: finding.kind for finding in findings if finding.record_id and finding.kind}
        await self._queries.announce(kinds, out=announced)
        for finding in findings:
            is_out = finding.record_id in announced
            self._heal(finding, "it is published, and marked so" if is_out else "queued for the relay")

    async def _drop_announcement(self, finding: Finding) -> None:
        if finding.outbox_id is None:
            why = "consumers have seen it: restore the record from a backup, or publish its source again"
            self._give_up(finding, why)
            return
        await self._queries.drop_announcement(finding.outbox_id)
        self._heal(finding, "removed from the outbox")

    async def _remove_orphans(self, findings: list[Finding]) -> None:
        objects = self._report.checked.get("objects", 0)
        allowed = max(REMOVED_ALWAYS, int(objects * REMOVED_SHARE_MAX)) if self._report.checked.get("blobs") else 0
        if len(findings) > allowed and not self._force:
            why = f"{len(findings)} of {objects} objects are orphans, more than the {allowed} to remove without --force"
            for finding in findings:
                self._give_up(finding, why)
            return
        for start in range(0, len(findings), GC_BATCH_OBJECTS):
            state = await self._orphan_gc.state()
            part = findings[start : start + GC_BATCH_OBJECTS]
            if state.why_suspended is not None:
                for finding in part:
                    self._give_up(finding, state.why_suspended)
            else:
                await self._collect(part, quarantined=state.quarantined)

    async def _collect(self, findings: Sequence[Finding], *, quarantined: bool) -> None:
        """Remove orphans by the protocol of headrace/store/catalog/orphan_gc.py.

        An error keeps the marks, since a delete request may still be in flight.
        """
        marked_s = time.monotonic()
        free = set(await self._orphan_gc.mark([finding.name for finding in findings]))
        reached(CrashPoint.COLLECT_AFTER_MARK)
        for finding in findings:
            if finding.name not in free:
                self._heal(finding, "a row references it by now")
            elif time.monotonic() - marked_s > DELETE_S_MAX:
                self._give_up(finding, "the store is too slow: run the repair again")
            else:
                if quarantined:
                    await self._blobs.copy(finding.name, f"{QUARANTINE_PREFIX}{finding.name}")
                reached(CrashPoint.COLLECT_BEFORE_DELETE)
                await self._blobs.delete(finding.name)
                reached(CrashPoint.COLLECT_AFTER_DELETE)
                self._heal(finding, "moved to quarantine" if quarantined else "removed")
        reached(CrashPoint.COLLECT_BEFORE_RELEASE)
        await self._orphan_gc.release()

    def _heal(self, finding: Finding, how: str) -> None:
        self._report.healed.append((finding, how))

    def _give_up(self, finding: Finding, why: str) -> None:
        self._report.unhealed.append((finding, why))
