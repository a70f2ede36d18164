"""What became of messages: whether the catalog has them, which says that their bytes are in the store too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class MessageRef:
    """Where a message stands, which record it becomes, and when it was written at the earliest (Unix seconds)."""

    topic: str
    partition: int
    offset: int
    record_id: UUID
    since_s: float


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """What became of a message; while it is neither ingested nor has a code, it is on its way."""

    ingested: bool
    code: str | None
    reason: str | None

    @property
    def is_final(self) -> bool:
        """Whether it will stay so."""
        return self.ingested or self.code is not None


class IngestStatuses:
    """Asks the catalog for outcomes. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("ingest_status")["outcomes"]

    async def outcomes(self, places: Sequence[MessageRef]) -> list[IngestStatus]:
        """Return what became of each message, in their order."""
        columns = [
            [getattr(place, name) for place in places]
            for name in ("topic", "partition", "offset", "record_id", "since_s")
        ]
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql, *columns)
        return [IngestStatus(*row) for row in rows]
