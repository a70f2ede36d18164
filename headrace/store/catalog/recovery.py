"""What a recovery writes to the catalog, and what orphan collection has to know of it. Every method may be repeated."""

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Self
from uuid import UUID

from headrace.schemas.catalog_rows import BlobRow
from headrace.schemas.topics import PartitionKey
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.store.postgres import Pool, Pooled

STATEMENT_S_MAX = 30.0
_BLOB = attrgetter("digest", "size_bytes", "media_type", "store_key", "store_offset")


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What orphan collection may do: nothing while `why_suspended` is set, and no deletion while in quarantine."""

    why_suspended: str | None
    quarantined: bool


async def collection_state(connection: "Pooled") -> CollectionState:
    """Return what orphan collection may do now."""
    row = await connection.fetchrow(statements("recovery")["collection_state"])
    assert row is not None, "a row of subqueries"
    why = None
    if row["reverted"]:
        why = "the catalog may be an older copy: run `headrace recover` first"
    elif row["rewound"]:
        why = f"{row['rewound']} partitions are still being ingested again after a recovery"
    return CollectionState(why, bool(row["quarantined"]))


class Recovery:
    """The catalog's side of a recovery. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("recovery")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> "AsyncIterator[Self]":
        """Connect, and close on exit; the catalog may be an older copy."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace recover"
        ) as pool:
            yield cls(pool, dsn)

    async def restore_identity(self, installation_id: UUID, kafka_cluster_id: str) -> None:
        """Give a catalog from before it had an identity the one that Kafka and the store have."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["restore_identity"], installation_id, kafka_cluster_id)

    async def begin(self, targets: Mapping[PartitionKey, int]) -> None:
        """Keep every process from starting, and record up to where partitions are to be ingested again."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["begin"])
            for (topic, partition), next_offset in sorted(targets.items()):
                await connection.execute(self._sql["add_target"], topic, partition, next_offset)

    async def learn(self, event_ids: Sequence[UUID], blobs: Sequence[BlobRow] = ()) -> None:
        """Record announcements that must not be published again, and where their bodies are in packs."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["learn"], event_ids)
            if blobs:
                await connection.execute(self._sql["learn_blobs"], *zip(*map(_BLOB, blobs), strict=True))

    async def finish(self, epoch: int, quarantine_days: float) -> None:
        """Record the new epoch and the server, and let processes start again."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["finish"], epoch, quarantine_days)
