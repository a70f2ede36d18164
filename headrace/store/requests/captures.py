"""Which capture worker has which request, and what is left behind."""

from collections.abc import Collection
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.postgres import borrowed
from headrace.store.requests.requests import IngestRequest
from headrace.store.statements import statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

AT_ONCE_MAX = 50


class Captures:
    """The requests of captures. Raises CatalogUnavailable or CatalogRefused."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("captures")

    async def beat(self, request_id: UUID, worker: str, evidence: str, running: Collection[str]) -> bool:
        """Say that a worker is at a request; False where it is not its own any more."""
        async with borrowed(self._pool, self._dsn) as connection:
            return bool(await connection.fetchval(self._sql["beat"], request_id, worker, evidence, [*running]))

    async def take_from_silent(self, running: Collection[str], silent_s: float) -> list[tuple[UUID, str]]:
        """Take requests from workers that fell silent; returns each with its evidence."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["take_from_silent"], [*running], silent_s, AT_ONCE_MAX)
        return [(row["request_id"], row["evidence"]) for row in rows]

    async def untold(self, state: str, since_s: float) -> list[IngestRequest]:
        """Return requests that have waited in a state for so long, each to one who asks."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["untold"], state, since_s, AT_ONCE_MAX)
        return [IngestRequest(*row) for row in rows]
