from collections.abc import Callable

from headrace.schemas.events import Clip, Frame
from headrace.store.blobs import staging
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.core.examine import AcceptedDelivery


class StagedClaims:
    """Staged bodies of the blob store, as the agents' port for them."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def promote(self, claim: AcceptedDelivery, head_bytes: int, moved: Callable[[], None]) -> bytes:
        """Verify a staged body, put it at its content address, and return its first bytes.

        Raises:
            ClaimMissing, ClaimMismatch: the message is at fault. StoreUnavailable, StoreRefused: the store is.
        """
        assert isinstance(claim.event, Frame | Clip)
        assert claim.event.claim is not None
        promoted = await staging.verify_and_promote(
            self._blobs,
            claim=claim.event.claim,
            sha256_hex=claim.digest,
            size_bytes=claim.size_bytes,
            head_bytes=head_bytes,
            moved=moved,
        )
        return promoted.head

    async def discard(self, claim: str) -> None:
        """Delete a staged body once its record is committed; may be repeated."""
        await staging.discard(self._blobs, claim)
