"""Delete objects that no row refers to while workers put and commit blobs: why no blob is lost.

An object that no row of `blobs` refers to is an orphan: a worker put it and died before its commit. The same bytes may
come again at any moment. Then a worker's conditional PUT finds the object, counts that as success, and commits a row;
if the object is deleted in between, the row has no bytes. The age of the object does not help, because a PUT that finds
its object leaves its age as it was.

So a collection of some keys goes like this, all of it by the one process that holds COLLECTOR_LOCK:

    mark     in one transaction, under ENTER_LOCK exclusively: write the keys to `collecting`
    recheck  drop the keys that a row refers to by now
    delete   the objects of the others
    release  in one transaction: remove the marks, and add one to the collection epoch

and a worker: it reads the collection epoch *before* it puts, and its transaction takes ENTER_LOCK shared, as its first
statement; it then refuses (`BlobsCollectedError`) if one of its keys is marked, or if the epoch has changed.

Claim: if the worker's transaction commits a key, its object is there. Consider a collection of that key, and when the
worker held ENTER_LOCK:
* before the mark: the exclusive lock waited for the worker's transaction to end, so the recheck sees its row and the
  object stays;
* between mark and release: the key is marked, and the transaction refuses;
* after the release: the epoch grew at the release. The worker's is the current one, so it was read after the release,
  and its PUT came after the deletion: it wrote the object, or found one that was written after the deletion.
A refused worker reads the epoch again, puts again and repeats its transaction.

A row of `blobs` is deleted only by an erasure, in a transaction under ENTER_LOCK exclusively that adds one to the epoch
(headrace/store/catalog/erasures.py). So a worker that skips the PUT because a row is there commits only while the epoch
is the one that it read before it looked for the row.

Mark and release go over the very connection that holds COLLECTOR_LOCK. A lock that was lost, with PostgreSQL or with
the connection, is thus an error before the next deletion, and no release of an old collector removes a new one's marks.
Objects that were marked before may still be deleted, because marks younger than MARK_S_MAX are never released.

A collector that dies between mark and release, or does not know whether a deletion was carried out, leaves its marks,
because its request may still be in progress. Once they are older than MARK_S_MAX and COLLECTOR_LOCK is free, they are
released by a worker that reads the epoch, or by the next collection (`take_over`). That leaves one gap, which no store
without fenced deletion can close: a collector that is stopped after it last read the clock and before its DELETE,
for longer than MARK_S_MAX, and that loses its connection to PostgreSQL meanwhile. `headrace fsck` would name the row
without object, and restore it from Kafka.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from headrace.runtime.errors import HeadraceError
from headrace.store.catalog.recovery import CollectionState, collection_state
from headrace.store.locks import COLLECTOR_LOCK, ENTER_LOCK
from headrace.store.postgres import catalog_errors, connected, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

MARK_S_MAX = 120  # older than any request to the store can be: three tries of 20 s each
DELETE_S_MAX = 30  # a collector begins no deletion later than this after its mark
STATEMENT_S_MAX = 600.0  # whole tables are read


async def take_over(connection: "Pooled") -> None:
    """Release the marks of a collector that ended; do nothing while one is running."""
    await connection.execute(statements("orphan_gc")["take_over"], COLLECTOR_LOCK, MARK_S_MAX)


class GcRunningError(HeadraceError):
    """Another process moves or deletes objects, or may still have a request in progress: try again later."""


@asynccontextmanager
async def collector_lock(dsn: str, *, application: str) -> AsyncIterator["Pooled"]:
    """Hold COLLECTOR_LOCK on the yielded connection; only its holder deletes objects.

    Raises:
        GcRunningError: another process holds it, or ended a moment ago in the middle of a collection.
        CatalogUnavailableError, CatalogRefusedError.
    """
    async with connected(dsn, statement_s_max=STATEMENT_S_MAX, application=application) as holder:
        sql = statements("orphan_gc")
        if not await holder.fetchval(sql["try_lock"], COLLECTOR_LOCK):
            raise GcRunningError(
                "archive_running",
                "another archive, restore or repair is running",
                hint="wait until it has ended, then run it again",
            )
        remaining_s = await holder.fetchval(sql["remaining_s"], MARK_S_MAX)
        if remaining_s is not None and remaining_s > 0:
            raise GcRunningError(
                "repair_interrupted",
                "a repair ended in the middle of a deletion a moment ago",
                hint=f"run it again in {remaining_s} s",
            )
        yield holder
        await holder.execute(sql["unlock"], COLLECTOR_LOCK)


class OrphanGc:
    """The marks of one collector, which holds COLLECTOR_LOCK while this is open."""

    def __init__(self, holder: "Pooled", dsn: str) -> None:
        """Use the connection that holds the lock; see `open`."""
        self._holder = holder
        self._dsn = dsn
        self._sql = statements("orphan_gc")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Become the collector, and release the expired marks of an earlier one.

        Raises:
            GcRunningError: as `collector_lock`. CatalogUnavailableError, CatalogRefusedError.
        """
        async with collector_lock(dsn, application="headrace collection") as holder:
            collection = cls(holder, dsn)
            await collection.release()
            yield collection

    async def mark(self, keys: Sequence[str]) -> list[str]:
        """Mark objects, and return those that may be deleted: no row refers to them, and none can until `release`.

        Raises:
            CatalogUnavailableError: workers' transactions did not end in time, or the lock is lost: delete nothing.
        """
        with catalog_errors(self._dsn):
            async with self._holder.transaction():
                await self._holder.execute(self._sql["set_lock_timeout"])
                await self._holder.execute(self._sql["lock_exclusive"], ENTER_LOCK)
                await self._holder.execute(self._sql["mark"], keys)
            rows = await self._holder.fetch(self._sql["unreferenced"], keys)
        return [row[0] for row in rows]

    async def state(self) -> CollectionState:
        """Return whether orphans may be collected now, and whether they go to quarantine.

        Raises:
            CatalogUnavailableError, CatalogRefusedError.
        """
        with catalog_errors(self._dsn):
            return await collection_state(self._holder)

    async def release(self) -> None:
        """Remove every mark; from then on workers put again what was deleted.

        Raises:
            CatalogUnavailableError: the lock was lost. The marks stay: they may be another collector's.
        """
        with catalog_errors(self._dsn):
            await self._holder.execute(self._sql["release"])
