"""What the worker needs from outside, as small ports: the real ones are in `store`, tests bring their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from headrace.schemas.catalog_rows import CommitResult, KnownDigests, Original, RowBatch, SightingKey
from headrace.schemas.media_probe import MediaProbe
from headrace.store.blobs.staging import StagedBody
from headrace.streams.core.delivery import ConsumedMessage


class BlobPort(Protocol):
    """The blob store. Its method may be repeated; it raises StoreUnavailableError or StoreRefusedError."""

    async def put(self, key: str, data: bytes, *, media_type: str | None = None) -> bool:
        """Store bytes under their content address; return False where they existed."""


class StagedBodyPort(Protocol):
    """Staged bodies. Both methods may be repeated."""

    async def promote(self, staged: StagedBody, *, moved: Callable[[], None]) -> MediaProbe:
        """Verify a staged body, put it at its content address, and return what it is.

        Calls `moved` after each part.

        Raises:
            ClaimMissingError, ClaimMismatchError: the message is at fault.
            StoreUnavailableError, StoreRefusedError: the store is.
        """

    async def discard(self, claim: str) -> None:
        """Delete a staged body once its record is committed."""


class CatalogPort(Protocol):
    """The catalog. Every method may be repeated; they raise CatalogUnavailableError or CatalogRefusedError."""

    async def collection_epoch(self) -> int:
        """Return the collection epoch under which objects are put."""

    async def has_tombstones(self) -> bool:
        """Return whether there are tombstones; a collection epoch that was read before covers the answer."""

    async def originals(self, ids: Sequence[UUID]) -> dict[tuple[UUID, int], Original]:
        """Return the original positions of redriven messages, by dead letter and attempt."""

    async def look_up(self, digests: Sequence[bytes]) -> KnownDigests:
        """Return the blobs and tombstones of these digests; a collection epoch that was read before covers them."""

    async def has_sighting(self, key: SightingKey) -> bool:
        """Return whether the catalog has a sighting of a record by its source."""

    async def commit(self, batch: RowBatch) -> CommitResult:
        """Write a batch in one transaction; raises BlobsCollectedError where its objects must be put again first."""


@dataclass(frozen=True, slots=True)
class IngestPorts:
    """The blob store, its staged bodies, and the catalog."""

    blobs: BlobPort
    staged: StagedBodyPort
    catalog: CatalogPort


class FetchedBatch(Protocol):
    """Messages of one partition in a row, in the order of their offsets, which are not finished yet."""

    @property
    def messages(self) -> Sequence[ConsumedMessage]:
        """The messages."""

    def finish(self, next_offset: int) -> None:
        """Note that every message of the batch below this offset is durable, and may be committed to Kafka."""
