"""What the agents need from outside, as small ports: the real ones are in `store`, tests may bring their own."""

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from headrace.store.catalog.rows import BlobPlace, CommitResult, Original, RowBatch
from headrace.streams.core.examine import AcceptedDelivery


class BlobPort(Protocol):
    """Where bodies go. Both may be repeated; they raise StoreUnavailable or StoreRefused."""

    async def put(self, key: str, data: bytes, *, media_type: str | None = None) -> bool:
        """Store bytes under their content address; False means that they were there."""


class ClaimPort(Protocol):
    """Staged bodies. Both may be repeated."""

    async def promote(self, claim: AcceptedDelivery, head_bytes: int, moved: Callable[[], None]) -> bytes:
        """Verify a staged body, put it at its content address, and return its first bytes; `moved` after each part."""

    async def discard(self, claim: str) -> None:
        """Delete a staged body once its record is committed."""


class CatalogPort(Protocol):
    """Where rows go. Both may be repeated; they raise CatalogUnavailable or CatalogRefused."""

    async def generation(self) -> int:
        """Return the generation to put objects under."""

    async def originals(self, ids: Sequence[UUID]) -> dict[tuple[UUID, int], Original]:
        """Return where messages stood that were published again."""

    async def known_blobs(self, digests: Sequence[bytes]) -> dict[bytes, BlobPlace]:
        """Return where those of the blobs are that are known."""

    async def commit(self, batch: RowBatch) -> CommitResult:
        """Write a batch in one transaction; raises BlobsCollected where its objects must be put again first."""


class StreamEvent(Protocol):
    """A message that Faust handed over and that is not acknowledged yet."""

    @property
    def message(self) -> "StreamMessage":
        """The message as Kafka delivered it."""

    def ack(self) -> bool:
        """Mark it as done."""


class StreamMessage(Protocol):
    """The parts of Faust's message that are used."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: object
