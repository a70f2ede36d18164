"""Move bodies between the store and the archive: why each stays readable.

A move writes one object to the store or the archive. It takes these steps, in the one process that holds
COLLECTOR_LOCK, as a repair does:

    expect   note in `leavings` that the new object may be there without a row
    put      write it, read it back, and verify it
    note     in one transaction: the rows name the new object, which leaves `leavings`; the old ones enter it
    remove   delete the objects in `leavings` to which no row refers, then their rows in `leavings`

A pack that other bodies keep still holds the bytes that were moved: `note` adds them to `pack_copies`, where an erasure
finds them.

So the rows refer to verified bytes at each moment. The objects that an interrupted move has left, in the store or the
archive, are in `leavings`, and the next move deletes them before it begins.

Nothing here is removed from under a worker. It puts only bytes whose digest has no row: so it neither puts nor names an
object that consists of bytes which have one, alone or as a pack. An erasure deletes rows, under the same lock, after it
has emptied `leavings`.

Every statement goes over the connection that holds the lock: where that is lost, the next step fails, and between two
removals there is one. That leaves the gap of headrace/store/catalog/orphan_gc.py: a process that is stopped between
its last statement and its DELETE, that loses its connection meanwhile, and whose object another one has written again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import asyncpg

from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind
from headrace.store.catalog.orphan_gc import collector_lock
from headrace.store.catalog.recovery import CollectionState, collection_state
from headrace.store.postgres import catalog_errors, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

PAGE_ROWS = 5000
SHRUNK_BYTES_MAX = 128 * 1024 * 1024  # some 600,000 rows of `blobs`, written anew within three seconds
FILLED_SHARE_MIN = 0.8
LOCK_S_SHORT = 3  # whoever waits for a table makes those wait that come after
LOCK_S_MAX = 30
_SHRUNK = ("outbox", "blobs")


class Location(StrEnum):
    """Whether an object is in the store or in the archive."""

    STORE = "store"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class DueRecord:
    """A record that is old enough, and the location of its bytes if they may be archived."""

    record_id: UUID
    ingested_at_us: int
    blob: BlobLocation | None


@dataclass(frozen=True, slots=True)
class BodyOwner:
    """A record that has these bytes."""

    digest: bytes
    kind: Kind
    ingested_at_us: int


@dataclass(frozen=True, slots=True)
class StaleObject:
    """An object to which a row referred, or was to refer; `is_free` if none does."""

    place: Location
    store_key: str
    is_free: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSelection:
    """A filter of archived records; None matches everything. Times are capture times, the last excluded."""

    ids: tuple[UUID, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    sites: tuple[str, ...] | None = None
    source_ids: tuple[str, ...] | None = None
    captured_from_us: int | None = None
    captured_until_us: int | None = None


@dataclass(frozen=True, slots=True)
class MovedBodies:
    """Bodies in one new object: their digests, and their offsets if it is a pack."""

    store_key: str
    digests: tuple[bytes, ...]
    offsets: tuple[int | None, ...]
    old_keys: tuple[str, ...]


class Archives:
    """The catalog's statements for moves; every method may be repeated.

    Raises CatalogUnavailableError, also if the lock was lost, or CatalogRefusedError.
    """

    def __init__(self, holder: "Pooled", dsn: str) -> None:
        """Use the connection that holds the lock; see `open`."""
        self._holder = holder
        self._dsn = dsn
        self._sql = statements("archives")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Become the one process that moves or repairs.

        Raises:
            GcRunningError: another one is running. CatalogUnavailableError, CatalogRefusedError.
        """
        async with collector_lock(dsn, application="headrace archive") as holder:
            yield cls(holder, dsn)

    async def collection_state(self) -> CollectionState:
        """Return whether objects may be deleted now."""
        with catalog_errors(self._dsn):
            return await collection_state(self._holder)

    async def now_us(self) -> int:
        """Return PostgreSQL's time."""
        return int(await self._value("now"))

    async def due(
        self, kind: Kind, *, before_us: int, restored_days: float, after: tuple[int, UUID]
    ) -> list[DueRecord]:
        """Look at the next PAGE_ROWS records of a kind after one with this time and id, and return those that are due.

        They were ingested before, are announced, and were restored so many days ago if at all; oldest first. The last
        record that was looked at comes too: where it may not go, without its blob. At the end there is none.
        """
        rows = await self._rows("due", kind, before_us, *after, restored_days, PAGE_ROWS)
        # The announcements of the others have the location.
        waiting = await self._unannounced([row[0] for row in rows])
        return [
            DueRecord(row[0], row[1], None if row[2] is None or row[0] in waiting else BlobLocation(*row[2:]))
            for row in rows
        ]

    async def _unannounced(self, records: Sequence[UUID]) -> set[UUID]:
        """Return those of the records that are not announced yet, or not for each site that delivered them."""
        events = {event_id(record): record for record in records}
        events |= {event_id(row[0], row[1]): row[0] for row in await self._rows("further_sites", records)}
        return {events[row[0]] for row in await self._rows("unannounced", list(events))}

    async def owners(self, ids: Sequence[UUID]) -> list[BodyOwner]:
        """Return the digests, kinds and times of the records with these ids that exist."""
        return [BodyOwner(row[0], Kind(row[1]), row[2]) for row in await self._rows("owners", ids)]

    async def archived(self, selected: ArchiveSelection, *, after: UUID) -> list[tuple[UUID, BlobLocation]]:
        """Return a page of the archived records by id, with the location of their bytes in the archive."""
        rows = await self._rows(
            "archived",
            after,
            selected.kinds,
            selected.sites,
            selected.source_ids,
            selected.captured_from_us,
            selected.captured_until_us,
            selected.ids,
            PAGE_ROWS,
        )
        return [(row[0], BlobLocation(*row[1:])) for row in rows]

    async def expect(self, place: Location, store_key: str) -> None:
        """Record that an object may exist without a row from now on."""
        await self._execute("expect", place, store_key)

    async def note(self, moved: MovedBodies, to: Location) -> None:
        """Point the rows of bodies to a new, verified object, and record the old objects as stale."""
        origin = Location.STORE if to is Location.ARCHIVE else Location.ARCHIVE
        with catalog_errors(self._dsn):
            async with self._holder.transaction():
                await self._execute(f"to_{to}", moved.store_key, moved.digests, moved.offsets)
                await self._execute("leave", origin, moved.old_keys)
                await self._execute("settled", to, moved.store_key)

    async def leavings(self) -> list[StaleObject]:
        """Return the objects that may have to be deleted."""
        return [StaleObject(Location(row[0]), row[1], row[2]) for row in await self._rows("free")]

    async def settled(self, leaving: StaleObject) -> None:
        """Forget an object that was deleted, or to which a row refers."""
        if leaving.is_free:
            await self._execute("forget_copies", leaving.place, leaving.store_key)
        await self._execute("settled", leaving.place, leaving.store_key)

    async def size_bytes(self) -> int:
        """Return the size of the tables on disk, with their indexes."""
        return int(await self._value("size"))

    async def shrink(self, *, force: bool) -> None:
        """Rewrite the tables that a run empties, so that the file system gets the space; commits wait meanwhile.

        Without `force`, a table is skipped that is large, mostly full, or locked for seconds.
        """
        await self._execute("set_lock_timeout", f"{LOCK_S_MAX if force else LOCK_S_SHORT}s")
        for table in _SHRUNK:
            if force:
                await self._execute(f"shrink_{table}")
            elif await self._is_spare(table):
                with catalog_errors(self._dsn), suppress(asyncpg.LockNotAvailableError):
                    await self._holder.execute(self._sql[f"shrink_{table}"])

    async def _is_spare(self, table: str) -> bool:
        """Return whether a table can be rewritten within seconds and a good part of it is empty."""
        if (await self._rows("fill", table))[0][0] > SHRUNK_BYTES_MAX:
            return False
        await self._execute(f"vacuum_{table}")
        bytes_on_disk, bytes_used = (await self._rows("fill", table))[0]
        return bool(bytes_used < bytes_on_disk * FILLED_SHARE_MIN)

    async def _rows(self, name: str, *values: Any) -> list[Any]:
        with catalog_errors(self._dsn):
            return list(await self._holder.fetch(self._sql[name], *values))

    async def _value(self, name: str) -> Any:
        with catalog_errors(self._dsn):
            return await self._holder.fetchval(self._sql[name])

    async def _execute(self, name: str, *values: Any) -> None:
        with catalog_errors(self._dsn):
            await self._holder.execute(self._sql[name], *values)
