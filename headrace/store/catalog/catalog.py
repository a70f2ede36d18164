"""The catalog's write path: one transaction for each batch, whatever was written before left as it is.

The unique keys are the deduplication. Rows are inserted in the order of their keys, so that two workers which hold the
same digests wait for each other instead of deadlocking; only the outbox follows the order of the input.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import UUID

from headrace.runtime import crash_points
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import HeadraceError
from headrace.schemas.catalog_rows import (
    KEY_BYTES,
    BlobLocation,
    BlobRow,
    CommitResult,
    DeadLetterRow,
    KnownDigests,
    LossRow,
    Original,
    Outcomes,
    RecordRow,
    RedriveRow,
    RowBatch,
    SightingKey,
    SightingRow,
    Tombstone,
)
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind
from headrace.schemas.topics import DEAD_LETTERS, PartitionKey, ingested_topic, input_topic
from headrace.store.catalog.ingest_progress import IngestProgress, advance
from headrace.store.catalog.mirror_losses import follow_origins, report_losses
from headrace.store.catalog.orphan_gc import take_over
from headrace.store.catalog.parameters import (
    DEAD_LETTER_STATEMENT_BYTES_MAX,
    columns,
    dead_letter_values,
    json_columns,
    redrive_values,
    slices,
)
from headrace.store.catalog.transfers import add_transfers, announce_arrived
from headrace.store.errors import BlobsCollectedError, CatalogRevertedError, address
from headrace.store.installation import check_server
from headrace.store.locks import ENTER_LOCK
from headrace.store.postgres import (
    CONNECTIONS_MAX,
    STATEMENT_S_MAX,
    borrowed,
    close_pool,
    open_pool,
    row_count,
    statements,
)

if TYPE_CHECKING:
    from headrace.store.postgres import Pool, Pooled

NOTIFY_EVERY_S = 0.01  # at most: of many commits each listener has to hear once

_BLOB = attrgetter("size_bytes", "media_type", "store_key", "store_offset")
_RECORD = attrgetter(
    *("site", "source_id", "captured_at_us", "sequence", "media_type", "size_bytes", "width", "height", "duration_us"),
    *("ldo_id", "code", "about"),
)
_SITE_RECORD = attrgetter("record_id", "site", "source_id", "captured_at_us", "sequence", "about")
_SIGHTING = attrgetter(
    *("topic", "partition", "offset", "index", "record_id", "site", "source_id", "captured_at_us", "sequence"),
    "mirrored_offset",
)
_LOSS = attrgetter("site", "source_id", "spool", "dropped", "damaged")
_SIGHTING_KEY = attrgetter("topic", "partition", "offset", "index")
_TOPICS = {kind: ingested_topic(kind).name for kind in Kind}

T = TypeVar("T")


class Catalog:
    """The catalog's write side for the worker. Every method may be repeated."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("catalog")
        self._collection_epoch: int | None = None
        self._has_tombstones = False
        self._progress: dict[PartitionKey, int] = {}
        self._notifying: asyncio.Task[None] | None = None
        self._to_notify = self._to_announce = False

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        connections_max: int = CONNECTIONS_MAX,
        statement_s_max: float = STATEMENT_S_MAX,
        application: str = "headrace",
    ) -> Self:
        """Connect; raises CatalogUnavailableError or CatalogRefusedError."""
        pool = await open_pool(
            dsn,
            connections_max=connections_max,
            statement_s_max=statement_s_max,
            application=application,
            check=partial(check_server, dsn),
        )
        return cls(pool, dsn)

    async def close(self) -> None:
        """Close every connection."""
        if self._notifying is not None:
            self._notifying.cancel()
            await asyncio.wait([self._notifying])
        await close_pool(self._pool)

    async def commit(self, batch: RowBatch, *, reached: Reached = crash_points.reached) -> CommitResult:
        """Write a batch in one transaction; `reached` is called at each crash point.

        If the answer to COMMIT is lost, the outcome is unknown: repeat the same batch.

        Raises:
            CatalogUnavailableError: repeat the batch. CatalogRefusedError: a row breaks a rule of the schema.
            BlobsCollectedError: put the batch's objects again, under the current collection epoch and without what was
                erased, then repeat it.
            CatalogRevertedError: the catalog lacks what this process committed before.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            transaction = connection.transaction()
            await transaction.start()
            reached(CrashPoint.TX_BEGAN)
            has_transfers = False
            if batch.blobs or batch.records or batch.dead_letters:
                has_transfers = await self._check_objects(connection, batch)
            await self._insert_blobs(connection, batch.blobs)
            reached(CrashPoint.AFTER_BLOBS)
            new_records = await self._insert_records(connection, batch.records)
            new_sites = await self._insert_site_records(connection, batch.records, new_records)
            new = new_records | new_sites
            new -= await add_transfers(connection, batch.transfers, new)
            arrived = has_transfers and await announce_arrived(connection, [row.digest for row in batch.blobs])
            reached(CrashPoint.AFTER_RECORDS)
            new_sightings = await self._insert_sightings(connection, batch.sightings)
            reached(CrashPoint.AFTER_SIGHTINGS)
            new_letters = await self._insert_dead_letters(connection, batch.dead_letters)
            await self._end_redrives(connection, batch.redrives)
            announces = await self._insert_outbox(connection, batch, new, new_letters)
            dropped, damaged = await self._note_losses(connection, batch.losses)
            reached(CrashPoint.AFTER_OUTBOX)
            await self._advance(connection, batch.progress)
            mirror_losses = await follow_origins(connection, batch.origins)
            reached(CrashPoint.BEFORE_COMMIT)
            await transaction.commit()
            self._progress |= {key: max(at, self._progress.get(key, 0)) for key, at in batch.progress.items()}
            reached(CrashPoint.AFTER_COMMIT)
        report_losses(mirror_losses)
        if batch.sightings or batch.dead_letters or arrived:
            self._notify_soon(announces=announces or arrived)
        return CommitResult(
            new_records=frozenset(new_records),
            new_sightings=new_sightings,
            duplicates=len(batch.records) - len(new_records),
            new_dead_letters=len(new_letters),
            newly_dropped=dropped,
            newly_damaged=damaged,
        )

    def forget_progress(self, key: PartitionKey) -> None:
        """Expect nothing of a partition any more: its topic was made anew."""
        self._progress.pop(key, None)

    async def look_up(self, digests: Sequence[bytes]) -> KnownDigests:
        """Return the blobs and tombstones of these digests; a collection epoch that was read before covers them."""
        if not digests:
            return KnownDigests()
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["look_up"], digests)
        return KnownDigests(
            {row["digest"]: BlobLocation(*row[:5]) for row in rows if row["site"] is None},
            [Tombstone(row["digest"], row["site"], row["source_id"]) for row in rows if row["site"] is not None],
        )

    def ingest_progress(self) -> IngestProgress:
        """Return the progress of the input partitions, over the same connections."""
        return IngestProgress(self._pool, self._dsn)

    async def has_sighting(self, key: SightingKey) -> bool:
        """Return whether there is a sighting of a record by its source."""
        async with borrowed(self._pool, self._dsn) as connection:
            return bool(await connection.fetchval(self._sql["has_sighting"], key.record_id, key.site, key.source_id))

    async def collection_epoch(self) -> int:
        """Return the collection epoch under which objects are put: the last one that this process read."""
        if self._collection_epoch is None:
            async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
                await take_over(connection)
                row = await connection.fetchrow(self._sql["collection_epoch"])
            assert row is not None, "the migration made this row"
            # Only after the transaction: the number that a rolled back one has read may be given to another epoch.
            self._has_tombstones = row["has_tombstones"]
            self._collection_epoch = int(row["generation"])
        return self._collection_epoch

    async def has_tombstones(self) -> bool:
        """Return whether there are tombstones; a collection epoch that was read before covers the answer."""
        await self.collection_epoch()
        return self._has_tombstones

    async def originals(self, ids: Sequence[UUID]) -> dict[tuple[UUID, int], Original]:
        """Return the original positions of redriven messages, by dead letter and attempt."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["originals"], ids)
        return {(row[0], row[1]): Original(*row[1:]) for row in rows}

    async def check(self) -> None:
        """Check that PostgreSQL answers and has the schema; for readiness."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.fetch(self._sql["check"])

    async def _advance(self, connection: "Pooled", progress: Mapping[PartitionKey, int]) -> None:
        """Move the progress on; an older one than this process has committed belongs to an older catalog."""
        if not progress:
            return
        before = await advance(connection, progress)
        for key, next_offset in before.items():
            committed = self._progress.get(key, 0)
            if (next_offset or 0) < committed:
                where = f"{key[0]} [{key[1]}] was ingested to offset {committed}, and is now to {next_offset or 0}"
                raise CatalogRevertedError(where, where=address(self._dsn))

    async def recent_outcomes(self, kind: Kind, window_s: float) -> Outcomes:
        """Count the new records and the dead letters of a kind within the last `window_s` seconds."""
        async with borrowed(self._pool, self._dsn) as connection:
            records = await connection.fetchval(self._sql["recent_records"], kind.value, window_s)
            rows = await connection.fetch(self._sql["recent_dead_letters"], input_topic(kind).name, window_s, KEY_BYTES)
        bad = {row["key"] if row["site"] is None else (row["site"], row["source_id"]): row["count"] for row in rows}
        return Outcomes(int(records), bad)

    async def _check_objects(self, connection: "Pooled", batch: RowBatch) -> bool:
        """Check that nothing was deleted or erased since the batch was prepared, and lock that out until the commit.

        Returns whether any bytes are still to be brought from a site.
        """
        await connection.execute(self._sql["lock_shared"], ENTER_LOCK)
        row = await connection.fetchrow(self._sql["collected"], [blob.store_key for blob in batch.blobs])
        assert row is not None, "the migration made this row"
        if row["marked"] or batch.collection_epoch not in {None, row["generation"]}:
            self._collection_epoch = None
            raise BlobsCollectedError(len(row["marked"]), where=address(self._dsn))
        return bool(row["has_transfers"])

    async def _insert_blobs(self, connection: "Pooled", rows: list[BlobRow]) -> None:
        if rows:
            rows = sorted(rows, key=attrgetter("digest"))
            digests = [row.digest.hex() for row in rows]
            answer = await connection.execute(self._sql["insert_blobs"], *json_columns(digests, *columns(_BLOB, rows)))
            if row_count(answer) < len(rows):
                keys, offsets = [row.store_key for row in rows], [row.store_offset for row in rows]
                await connection.execute(self._sql["note_copies"], *json_columns(digests, keys, offsets))

    async def _insert_records(self, connection: "Pooled", rows: list[RecordRow]) -> set[UUID]:
        if not rows:
            return set()
        # Reversed, so that the first of several rows of a record is kept.
        distinct = {row.record_id: row for row in reversed(rows)}
        ordered = sorted(distinct.values(), key=attrgetter("digest", "kind"))
        inserted = await connection.fetch(
            self._sql["insert_records"],
            *json_columns(
                [row.record_id for row in ordered],
                [row.kind for row in ordered],
                [row.digest.hex() for row in ordered],
                *columns(_RECORD, ordered),
                [None if row.attributes == b"{}" else row.attributes.decode() for row in ordered],
                [row.traceparent for row in ordered],
                [row.clip_sha256 for row in ordered],
            ),
        )
        return {row[0] for row in inserted}

    async def _insert_site_records(
        self, connection: "Pooled", rows: list[RecordRow], new_records: set[UUID]
    ) -> set[tuple[UUID, str]]:
        """Insert a row for each further site of a record; return the new ones as record and site."""
        first_sites = {row.record_id: row.site for row in reversed(rows) if row.record_id in new_records}
        # Reversed, so that the first of several rows of a site is kept.
        others = {
            (row.record_id, row.site): row for row in reversed(rows) if first_sites.get(row.record_id) != row.site
        }
        if not others:
            return set()
        ordered = [others[key] for key in sorted(others)]
        inserted = await connection.fetch(
            self._sql["insert_site_records"],
            *json_columns(
                *columns(_SITE_RECORD, ordered),
                [None if row.attributes == b"{}" else row.attributes.decode() for row in ordered],
                [row.traceparent for row in ordered],
            ),
        )
        return {(row[0], row[1]) for row in inserted}

    async def _insert_sightings(self, connection: "Pooled", rows: list[SightingRow]) -> int:
        if not rows:
            return 0
        rows = sorted(rows, key=_SIGHTING_KEY)
        count = await connection.fetchval(self._sql["insert_sightings"], *json_columns(*columns(_SIGHTING, rows)))
        return int(count)

    async def _insert_dead_letters(self, connection: "Pooled", rows: list[DeadLetterRow]) -> set[UUID]:
        new: set[UUID] = set()
        ordered = sorted({row.dead_letter_id: row for row in rows}.values(), key=attrgetter("dead_letter_id"))
        for rows_slice in slices(ordered, DEAD_LETTER_STATEMENT_BYTES_MAX):
            inserted = await connection.fetch(
                self._sql["insert_dead_letters"], *zip(*map(dead_letter_values, rows_slice), strict=True)
            )
            new.update(row[0] for row in inserted)
        return new

    async def _end_redrives(self, connection: "Pooled", rows: list[RedriveRow]) -> None:
        if rows:
            distinct = {(row.dead_letter_id, row.attempt): row for row in rows}
            ordered = [distinct[key] for key in sorted(distinct)]
            await connection.execute(self._sql["end_redrives"], *zip(*map(redrive_values, ordered), strict=True))

    async def _note_losses(self, connection: "Pooled", rows: list[LossRow]) -> tuple[int, int]:
        """Keep what spools report as lost; return how many dropped and damaged events are new."""
        if not rows:
            return 0, 0
        row = await connection.fetchrow(self._sql["note_losses"], *map(list, columns(_LOSS, rows)))
        assert row is not None, "sums are one row"
        return int(row["dropped"]), int(row["damaged"])

    async def _insert_outbox(
        self,
        connection: "Pooled",
        batch: RowBatch,
        new: AbstractSet[UUID | tuple[UUID, str]],
        new_letters: set[UUID],
    ) -> bool:
        """Insert the announcements of new records, of those that are new for a further site, and of dead letters.

        Returns whether there is anything.
        """
        rows: list[tuple[UUID, str, UUID | None, UUID | None, str | None]] = [
            (event_id(record, site), _TOPICS[kind], record, None, site)
            for record, kind, site in _first_of_each(_announced(batch.records, new))
        ]
        letters = [row.dead_letter_id for row in batch.dead_letters if row.dead_letter_id in new_letters]
        rows += [(event_id(letter), DEAD_LETTERS.name, None, letter, None) for letter in dict.fromkeys(letters)]
        if rows:
            await connection.execute(self._sql["insert_outbox"], *json_columns(*zip(*rows, strict=True)))
        return bool(rows)

    def _notify_soon(self, *, announces: bool) -> None:
        self._to_notify = True
        self._to_announce |= announces
        if self._notifying is None:
            self._notifying = asyncio.create_task(self._notify(), name="outbox notification")

    async def _notify(self) -> None:
        """Notify gateways and the relay; where that fails, they find what is new when they poll."""
        try:
            while self._to_notify:
                announces, self._to_notify, self._to_announce = self._to_announce, False, False
                with suppress(HeadraceError):
                    async with borrowed(self._pool, self._dsn) as connection:
                        await connection.fetch(self._sql["notify"], announces)
                await asyncio.sleep(NOTIFY_EVERY_S)
        finally:
            self._notifying = None


def _announced(
    rows: Iterable[RecordRow], new: AbstractSet[UUID | tuple[UUID, str]]
) -> Iterator[tuple[UUID, Kind, str | None]]:
    """Yield the records to announce, in the order of the input, with the site where it is a further one."""
    for row in rows:
        if (row.record_id, row.site) in new:
            yield row.record_id, row.kind, row.site
        elif row.record_id in new:
            yield row.record_id, row.kind, None


def _first_of_each(items: Iterable[T]) -> Iterable[T]:
    return dict.fromkeys(items)
