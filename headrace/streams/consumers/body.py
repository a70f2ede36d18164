"""A record's bytes, read from the store when a handler asks for them."""

from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_verified


class Body:
    """The bytes of one record; nothing is read before `read`."""

    def __init__(self, event: Ingested, blobs: Blobs) -> None:
        self._event = event
        self._blobs = blobs

    @property
    def size_bytes(self) -> int:
        """How much memory `read` will take."""
        return self._event.size_bytes

    async def read(self) -> bytes:
        """Return the bytes, whole and verified. May be repeated; each time they are read anew.

        Raises:
            BlobCorruptError: they do not hash to the announced digest. BlobMissingError: there is no such object.
            StoreUnavailableError, StoreRefusedError: the store does not answer, or does not let us in.
        """
        event = self._event
        return await read_verified(
            self._blobs,
            event.store_key,
            offset=event.store_offset,
            size_bytes=event.size_bytes,
            digest=event.digest,
        )
