"""Expiry of published announcements, a window of time after the other.

A record and its announcement are written by one transaction and have the same time. So a window of the outbox is
compared with the records of the same window before it is deleted: a record without its announcement is an
inconsistency, which deleting the others would hide. Neither step reads more than its window.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self
from uuid import UUID

from headrace.store.catalog.orphan_gc import STATEMENT_S_MAX
from headrace.store.postgres import DELETE_ROWS_MAX, borrowed, delete_in_steps, opened_pool, row_count, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool, Pooled


@dataclass(frozen=True, slots=True)
class PrunedOutbox:
    """The number of deleted rows; nothing later than `unannounced`, a record without an announcement, was deleted."""

    removed: int
    unannounced: UUID | None = None


class Expiry:
    """Deletes what is past its retention. Every method may be repeated and run concurrently.

    `progress` is called after each step. Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str, progress: Callable[[], None]) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._progress = progress
        self._sql = statements("expiry")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, progress: Callable[[], None] = lambda: None) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace expiry"
        ) as pool:
            yield cls(pool, dsn, progress)

    async def prune_outbox(self, retention_days: int) -> PrunedOutbox:
        """Delete the published rows of the outbox that are older than their retention."""
        removed = 0
        while True:
            async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
                row = await connection.fetchrow(self._sql["since"], retention_days)
                assert row is not None, "the migration made this row"
                since, before = row
                end = await connection.fetchval(self._sql["until"], since, before, DELETE_ROWS_MAX)
                until = max(since, before) if end is None else end
                unannounced = await self._unannounced(connection, since, until)
                if unannounced is not None:
                    return PrunedOutbox(removed, unannounced)
                answer = await connection.execute(self._sql["remove"], since, until)
                await connection.execute(self._sql["pruned_until"], until)
            removed += row_count(answer)
            self._progress()
            if end is None:
                break
        removed += await delete_in_steps(self._pool, self._dsn, self._sql["remove_left"], progress=self._progress)
        return PrunedOutbox(removed)

    async def forget_learned(self, retention_days: int) -> int:
        """Delete announcements that a recovery learned longer ago; return the number."""
        statement = self._sql["forget_learned"]
        return await delete_in_steps(self._pool, self._dsn, statement, retention_days, progress=self._progress)

    async def forget_erased(self, retention_days: int) -> int:
        """Delete the announcements of what was erased longer ago, once it is reported; return the number."""
        statement = self._sql["forget_erased"]
        return await delete_in_steps(self._pool, self._dsn, statement, retention_days, progress=self._progress)

    async def forget_replays(self, retention_days: int) -> int:
        """Forget replays that were begun longer ago, also those that have not ended; return the number."""
        items = self._sql["forget_items"]
        await delete_in_steps(self._pool, self._dsn, items, retention_days, progress=self._progress)
        statement = self._sql["forget_replays"]
        return await delete_in_steps(self._pool, self._dsn, statement, retention_days, progress=self._progress)

    async def forget_copies(self) -> int:
        """Forget the bytes in packs that no row names: such a pack is deleted as an orphan; return the number."""
        statement = self._sql["forget_copies"]
        return await delete_in_steps(self._pool, self._dsn, statement, progress=self._progress)

    async def _unannounced(self, connection: "Pooled", since: datetime, until: datetime) -> UUID | None:
        rows = await connection.fetch(self._sql["unannounced"], since, until)
        if not rows:
            return None
        record: UUID | None = await connection.fetchval(self._sql["without_row"], [row[0] for row in rows])
        return record
