"""The outcome of messages in the catalog; an ingested one has its bytes in the store too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class MessageRef:
    """The position of a message, the record that it becomes, and the earliest time of its write (Unix seconds)."""

    topic: str
    partition: int
    offset: int
    record_id: UUID
    since_s: float


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """The outcome of a message; while it is neither ingested nor has a code, it is pending."""

    ingested: bool
    code: str | None
    reason: str | None

    @property
    def is_final(self) -> bool:
        """Whether the outcome is final."""
        return self.ingested or self.code is not None


class IngestStatuses:
    """Queries outcomes. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("ingest_status")["outcomes"]

    async def outcomes(self, messages: Sequence[MessageRef]) -> list[IngestStatus]:
        """Return the outcome of each message, in order."""
        columns = [
            [getattr(message, name) for message in messages]
            for name in ("topic", "partition", "offset", "record_id", "since_s")
        ]
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql, *columns)
        return [IngestStatus(*row) for row in rows]
