"""The results of labelling functions, by version."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID

import orjson

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.catalog_rows import Labelled
from headrace.store.locks import ENTER_LOCK
from headrace.store.postgres import STATEMENT_S_MAX, borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

PAGE_ROWS = 2000
_CONNECTIONS_MAX = 2
_NAMED_MAX = 5  # versions that an error names


class LabelsUnknownError(HeadraceError):
    """No labelling functions have run with this version."""

    def __init__(self, version: str, known: Sequence[str]) -> None:
        super().__init__(
            "labels_unknown",
            f"no labelling functions have run with the version {version!r}",
            hint=f"the newest versions are {', '.join(known)}" if known else "run `headrace label --with MODULE` first",
            exit_code=Exit.USAGE,
        )


@dataclass(frozen=True, slots=True)
class LabelVersion:
    """One set of labelling functions: its name, the hexadecimal SHA-256 of its module, its functions in order."""

    version: str
    module_sha256: str
    functions: tuple[str, ...]


class Labels:
    """Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("labels")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=_CONNECTIONS_MAX, statement_s_max=STATEMENT_S_MAX, application="headrace label"
        ) as pool:
            yield cls(pool, dsn)

    async def begin(self, wanted: LabelVersion) -> LabelVersion:
        """Add a version, and return the one that has its name: a different one if the name is in use."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(
                self._sql["begin"], wanted.version, bytes.fromhex(wanted.module_sha256), wanted.functions
            )
        return await self.version(wanted.version)

    async def version(self, name: str) -> LabelVersion:
        """Return the version of this name.

        Raises:
            LabelsUnknownError: no version has this name.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["version"], name)
            if row is None:
                known = await connection.fetch(self._sql["newest_versions"], _NAMED_MAX)
        if row is None:
            raise LabelsUnknownError(name, [row[0] for row in known])
        return LabelVersion(row[0], row[1], tuple(row[2]))

    async def add(self, version: str, rows: Sequence[Labelled]) -> None:
        """Insert a version's results, without those of erased records; an earlier result of a record stays."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            # An erasure deletes its rows under this lock: their labels too, or they are gone before.
            await connection.execute(self._sql["lock_shared"], ENTER_LOCK)
            await connection.execute(
                self._sql["add"],
                version,
                [row.record_id for row in rows],
                [row.label for row in rows],
                [orjson.dumps(row.votes).decode() for row in rows],
                [orjson.dumps(row.errors).decode() for row in rows],
            )

    async def of(self, version: str) -> AsyncGenerator[Labelled]:
        """Yield all results of a version, in the order of the records' ids."""
        key = UUID(int=0)
        while True:
            async with borrowed(self._pool, self._dsn) as connection:
                rows = await connection.fetch(self._sql["page"], version, key, PAGE_ROWS)
            for row in rows:
                yield Labelled(row[0], row[1], orjson.loads(row[2]), orjson.loads(row[3]))
            if len(rows) < PAGE_ROWS:
                return
            key = rows[-1][0]
