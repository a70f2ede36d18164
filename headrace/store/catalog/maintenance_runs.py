"""Which jobs of `headrace maintenance` are due: once a day by PostgreSQL's clock, whichever process does them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from headrace.store.postgres import STATEMENT_S_MAX, borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class DueJob:
    """A job that is due, and the time at which that was read."""

    name: str
    at: datetime


class MaintenanceRuns:
    """The table of runs. Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("maintenance")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=2, statement_s_max=STATEMENT_S_MAX, application="headrace maintenance"
        ) as pool:
            yield cls(pool, dsn)

    async def due(self, names: Sequence[str], hour: int) -> list[DueJob]:
        """Return those of the jobs that have not succeeded since it was last this hour (UTC), in the given order."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["add"], names)
            rows = await connection.fetch(self._sql["due"], names, hour)
        times: dict[str, datetime] = {row[0]: row[1] for row in rows}
        return [DueJob(name, times[name]) for name in names if name in times]

    async def check(self) -> None:
        """Check that PostgreSQL answers and has the table; for readiness."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["check"])

    async def succeeded(self, job: DueJob) -> None:
        """Record that a job succeeded, as of the time at which it was due."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["succeeded"], job.name, job.at)
