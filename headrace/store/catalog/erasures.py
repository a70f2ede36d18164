"""Erase records for ever while workers ingest: why erased bytes do not come back.

The one process that holds COLLECTOR_LOCK erases, so no orphans are collected and no bodies are archived meanwhile:

    choose   in one transaction: the erasure, and the ids of the records and dead letters that it deletes
    rows     page by page, in a transaction under ENTER_LOCK exclusively: add the tombstones, delete sightings, at most
             SIGHTINGS_MAX, and with a record's last one its other rows, note their objects in `erasure_objects`, and
             add one to the collection epoch
    objects  delete the noted objects by the protocol of headrace/store/catalog/orphan_gc.py, or write a pack again
             without what no row refers to
    report   in one transaction: the report, and the end of the erasure

Each step may be repeated, and what a killed process left is in the tables: the next one goes on.

Claim: no transaction that commits after the first page with a record adds what is erased of it. A worker reads the
collection epoch, then the tombstones, and its transaction takes ENTER_LOCK shared, as its first statement, and refuses
if the epoch has changed. If it commits after that page, the epoch it read is that of the page or a later one, so the
tombstones that it read are those of the page too, and it has rejected what they match. If it commits before, this page
sees its rows and deletes them, or a later one: a record is in the pages until none of its sightings is left to delete.

Retention adds no tombstones. A page leaves out the records that were delivered again, or that no rule covers any more,
since they were chosen; what is delivered after a record's last page is a new record.

A worker may put an object of erased bytes before it is refused. It has no row, so it is an orphan, and is collected as
one. The tombstone of a source or site keeps out only what comes from there: the same bytes from elsewhere are another
delivery, and a record that came from elsewhere too stays.

A pack that others keep may hold bytes to which no row leads, because their body was moved or two workers stored it:
rows of `pack_copies` lead there. An export that has begun before the first page is in `export_runs`, with the shards
that it has finished, and the page notes those that can hold its records; one that begins later reads no row of them.

A pack keeps its key and the offsets of what stays in it, because announcements name them. So its key is no longer the
digest of its bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.schemas.digest import blob_key, derived_prefix, event_id, record_id, staging_key
from headrace.schemas.events import Kind
from headrace.store.catalog.archives import Location
from headrace.store.catalog.retention import RetentionRule
from headrace.store.errors import HeldError
from headrace.store.locks import ENTER_LOCK
from headrace.store.postgres import catalog_errors, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

PAGE_ROWS = 500
SIGHTINGS_MAX = 10_000  # of a page: an unchanging picture may have a million
OBJECTS_PAGE = 200
EXPIRED_PAGE = 5000
RANGES_MAX = 10_000
NAMED_MAX = 1000
_STAGED_KINDS = {Kind.FRAME, Kind.CLIP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is erased: records by their ids, or everything of a site, or of a source of it."""

    record_ids: tuple[UUID, ...] = ()
    site: str = ""
    source_id: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure that is under way; `site` and `source_id` are empty if it is one of records from anywhere.

    With `keeps_out` it leaves tombstones.
    """

    erasure_id: UUID
    site: str
    source_id: str
    keeps_out: bool = True


@dataclass(frozen=True, slots=True)
class ErasedObject:
    """An object that holds erased bytes, and the digest of some of them."""

    place: Location
    store_key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a pack to which a row refers."""

    digest: bytes
    size_bytes: int
    store_offset: int


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Messages of a partition, both ends included."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


@dataclass(frozen=True, slots=True)
class HoldingExport:
    """An export that can hold something erased, and the names of its first shards that can; times in microseconds.

    `host` is the machine of a directory, and empty for a store. An export that is not `complete` may have more of it.
    """

    host: str
    target: str
    format: str | None
    began_at_us: int | None
    until_us: int | None
    complete: bool
    shards: list[str]
    shards_total: int


class Erasures:
    """The catalog's statements for erasures, on the connection that holds COLLECTOR_LOCK.

    Every method may be repeated; raises CatalogUnavailableError, also if the lock was lost, or CatalogRefusedError.
    """

    def __init__(self, holder: "Pooled", dsn: str) -> None:
        """Use the connection that holds the lock."""
        self._holder = holder
        self._dsn = dsn
        self._sql = statements("erasures")

    async def count(self, target: Target) -> tuple[int, int]:
        """Count the records and dead letters of a site or source."""
        row = (await self._rows("count_origin", target.site, target.source_id))[0]
        return row["records"], row["dead_letters"]

    async def begin(self, erasure_id: UUID, target: Target, *, actor: str, reason: str) -> Erasure:
        """Record an erasure and choose what it deletes: what the catalog holds now.

        Raises:
            HeldError: a legal hold covers a part of it; nothing is recorded.
        """
        with catalog_errors(self._dsn):
            async with self._holder.transaction():
                await self._execute("begin", erasure_id, target.site, target.source_id, actor, reason, True)
                if target.record_ids:
                    await self._execute("choose_records", erasure_id, target.record_ids)
                else:
                    await self._execute("choose_origin", erasure_id, target.site, target.source_id)
                holds = await self._rows("covering_holds", erasure_id, target.site, target.source_id)
                if holds:
                    raise HeldError([f"{row['hold_id']} ({row['reason']})" for row in holds])
        return Erasure(erasure_id, target.site, target.source_id)

    async def begin_retention(self, erasure_id: UUID, rule: RetentionRule) -> Erasure:
        """Record an erasure of what is older than a rule's days, without what a legal hold covers."""
        reason = f"retention of {rule.days} days for {rule.kind}s{f' of {rule.site}' if rule.site else ''}"
        await self._execute("begin", erasure_id, rule.site, "", "retention", reason, False)
        after = (0, UUID(int=0))
        while True:
            values = (erasure_id, rule.kind, rule.site, rule.days, *after, EXPIRED_PAGE)
            rows = await self._rows("choose_expired", *values)
            if not rows:
                break
            after = (rows[0][0], rows[0][1])
        await self._execute("keep_held", erasure_id, rule.site, "", None)
        return Erasure(erasure_id, rule.site, "", keeps_out=False)

    async def unfinished(self) -> list[Erasure]:
        """Return the erasures that have not ended, the oldest first."""
        return [Erasure(*row) for row in await self._rows("unfinished")]

    async def erase_page(self, erasure: Erasure, *, reached: Reached) -> bool:
        """Delete rows of the next records or dead letters, without what a legal hold covers by now.

        Of records in a retention, those that are not past it any more stay too. Returns whether there were any.

        `reached` is called at the crash point before the commit.
        """
        for is_dead_letter in (False, True):
            rows = await self._rows("page", erasure.erasure_id, is_dead_letter, PAGE_ROWS)
            if ids := [row[0] for row in rows]:
                with catalog_errors(self._dsn):
                    async with self._holder.transaction():
                        await self._execute("set_lock_timeout")
                        await self._execute("lock_exclusive", ENTER_LOCK)
                        origin = erasure.site, erasure.source_id
                        kept = {row[0] for row in await self._rows("keep_held", erasure.erasure_id, *origin, ids)}
                        if not erasure.keeps_out:
                            young = await self._rows("keep_young", erasure.erasure_id, erasure.site, ids)
                            kept |= {row[0] for row in young}
                        ids = [subject for subject in ids if subject not in kept]
                        done = await (self._erase_letters if is_dead_letter else self._erase_records)(erasure, ids)
                        await self._execute("done_subjects", erasure.erasure_id, done)
                        await self._execute("next_epoch")
                        reached(CrashPoint.ERASE_BEFORE_COMMIT)
                return True
        return False

    async def objects(self, after: tuple[str, str]) -> list[ErasedObject]:
        """Return a page of the objects that hold erased bytes, by place and key."""
        rows = await self._rows("objects", *after, OBJECTS_PAGE)
        return [ErasedObject(Location(row[0]), row[1], row[2]) for row in rows]

    async def spans(self, erased: ErasedObject) -> list[Span]:
        """Return what rows refer to in a pack, in its order."""
        return [Span(*row) for row in await self._rows("members", erased.store_key, erased.place)]

    async def done(self, erasure: Erasure, erased: ErasedObject, outcome: str) -> None:
        """Forget an object, and count it as `deleted`, `rewritten` or `kept`."""
        await self._execute("done_object", erased.place, erased.store_key, erasure.erasure_id, outcome)

    async def forget_requests(self, erasure: Erasure) -> None:
        """Delete what the gateway keeps of the requests that brought what was erased; retention leaves it."""
        if erasure.keeps_out:
            await self._execute("forget_requests", erasure.erasure_id, erasure.site, erasure.source_id)

    async def messages(self, erasure: Erasure) -> tuple[list[OffsetRange], bool]:
        """Return the messages that brought what was erased, and whether they are all of each range.

        Where there are too many ranges, there is one for each partition.
        """
        rows = await self._rows("messages", erasure.erasure_id, RANGES_MAX + 1)
        is_exact = len(rows) <= RANGES_MAX
        if not is_exact:
            rows = await self._rows("message_bounds", erasure.erasure_id)
        return [OffsetRange(*row) for row in rows], is_exact

    async def summary(self, erasure: Erasure) -> dict[str, Any]:
        """Return the figures of an erasure, and the ids of its first records and dead letters."""
        return dict((await self._rows("summary", erasure.erasure_id, NAMED_MAX))[0])

    async def has_announcements(self, erasure: Erasure) -> bool:
        """Return whether any announcement is about something erased."""
        return bool((await self._rows("has_announcements", erasure.erasure_id))[0][0])

    async def announced(self, erasure: Erasure, event_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the announcements that are about something erased."""
        return {row[0] for row in await self._rows("announcements", erasure.erasure_id, event_ids)}

    async def exports(self, erasure: Erasure) -> list[HoldingExport]:
        """Return the exports that can hold something of what was erased."""
        return [HoldingExport(*row) for row in await self._rows("exports", erasure.erasure_id, NAMED_MAX)]

    async def finish(self, erasure: Erasure, report: str, signed: str | None) -> None:
        """Record the report, and end the erasure."""
        await self._execute("finish", erasure.erasure_id, report, signed)

    async def _erase_records(self, erasure: Erasure, ids: list[UUID]) -> list[UUID]:
        """Delete sightings of records, and the other rows of those that have no more to delete; return these."""
        origin = erasure.site, erasure.source_id
        if erasure.keeps_out:
            await self._execute("add_tombstones", erasure.erasure_id, ids, *origin)
        await self._execute("note_exports", erasure.erasure_id, ids)
        sightings = await self._rows("delete_sightings", erasure.erasure_id, ids, *origin, SIGHTINGS_MAX)
        # A staged body whose worker died may exist too. One that retention meets may belong to a message on its way.
        staged = [
            (staging_key(row["site"], row["source_id"], row["digest"].hex()), row["digest"])
            for row in sightings
            if erasure.keeps_out and row["kind"] in _STAGED_KINDS
        ]
        await self._add_objects(staged)
        unfinished = {row[0] for row in await self._rows("still_seen", ids, *origin)}
        done = [subject for subject in ids if subject not in unfinished]
        further = await self._rows("erase_site_records", done, *origin)
        given = await self._rows("give_to_others", erasure.erasure_id, done, *origin)
        records = await self._rows("delete_records", done)
        announced = {event_id(row[0], row[1]): row[0] for row in further} | {event_id(row[0]): row[0] for row in given}
        await self._forget_records(erasure, records, announced)
        return done

    async def _forget_records(self, erasure: Erasure, records: list[Any], announced: Mapping[UUID, UUID]) -> None:
        """Delete what belonged to deleted records, and note their announcements, and those of parts of other ones."""
        digests = {row["record_id"]: row["digest"] for row in records}
        of_parts = {event: subject for event, subject in announced.items() if subject not in digests}
        of_records = {event: subject for event, subject in announced.items() if subject in digests}
        await self._note_announcements(erasure, of_parts, is_part=True)
        await self._note_announcements(erasure, of_records | {event_id(record): record for record in digests})
        await self._execute("forget_subjects", list(digests))
        candidates = [record_id(kind, digest.hex()) for digest in set(digests.values()) for kind in Kind]
        freed = [row[0] for row in await self._rows("delete_blobs", list(set(digests.values())), candidates)]
        # An object of the same bytes that has no row may exist too.
        objects = [(blob_key(digest.hex()), digest) for digest in freed]
        frames = [row for row in records if row["kind"] == Kind.FRAME]
        await self._add_objects(objects + [(derived_prefix(row["record_id"]), row["digest"]) for row in frames])

    async def _erase_letters(self, erasure: Erasure, ids: list[UUID]) -> list[UUID]:
        origin = erasure.site, erasure.source_id
        await self._execute("delete_dead_letters", erasure.erasure_id, ids, *origin, erasure.keeps_out)
        await self._note_announcements(erasure, {event_id(letter): letter for letter in ids})
        await self._execute("forget_subjects", ids)
        return ids

    async def _note_announcements(
        self, erasure: Erasure, announced: Mapping[UUID, UUID], *, is_part: bool = False
    ) -> None:
        """Note announcements that are about something erased, by their event ids, each with its record or letter."""
        values = erasure.erasure_id, [*announced], [*announced.values()], is_part
        await self._execute("note_announcements", *values)

    async def _add_objects(self, objects: list[tuple[str, bytes]]) -> None:
        if objects:
            keys, digests = zip(*objects, strict=True)
            await self._execute("add_objects", Location.STORE, keys, digests)

    async def _rows(self, name: str, *values: Any) -> list[Any]:
        with catalog_errors(self._dsn):
            return list(await self._holder.fetch(self._sql[name], *values))

    async def _execute(self, name: str, *values: Any) -> None:
        with catalog_errors(self._dsn):
            await self._holder.execute(self._sql[name], *values)
