"""The catalog's own record of when things were committed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace.bench.figures import CommittedRows
from headrace.runtime.settings import Settings
from headrace.store.postgres import borrowed, opened_pool, statements

_SQL = statements(str(Path(__file__).parent / "bench"))


class Commits:
    """Asks about the deliveries of one topic since a moment. Raises CatalogUnavailable or CatalogRefused."""

    def __init__(self, pool: Any, dsn: str, topic: str, since: datetime) -> None:
        """Use an opened pool; see `commits`."""
        self._pool = pool
        self._dsn = dsn
        self._topic = topic
        self._since = since

    async def recorded(self) -> int:
        """Return how many deliveries are recorded."""
        return int((await self._row("recorded", self._since, self._topic))[0])

    async def unpublished(self) -> int:
        """Return how many records are not announced yet."""
        return int((await self._row("unpublished"))[0])

    async def committed(self) -> CommittedRows:
        """Return when it all happened."""
        return CommittedRows(*await self._row("committed", self._since, self._topic))

    async def _row(self, name: str, *values: object) -> Any:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchrow(_SQL[name], *values)


@asynccontextmanager
async def commits(settings: Settings, topic: str) -> AsyncIterator[Commits]:
    """Connect; what was committed before now does not count."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with opened_pool(
        dsn, connections_max=1, statement_s_max=settings.postgres_statement_s_max, application="headrace bench"
    ) as pool:
        async with borrowed(pool, dsn) as connection:
            since: datetime = await connection.fetchval(_SQL["now"])
        yield Commits(pool, dsn, topic, since)
