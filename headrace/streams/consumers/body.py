"""A record's bytes, read from the store on demand."""

from headrace.schemas.events import Ingested
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_verified


class Body:
    """The bytes of one record, which `read` fetches."""

    def __init__(self, event: Ingested, blobs: Blobs) -> None:
        self._event = event
        self._blobs = blobs

    @property
    def size_bytes(self) -> int:
        """The size in bytes."""
        return self._event.size_bytes

    async def read(self) -> bytes:
        """Return the verified bytes; may be repeated, and reads them again each time.

        Raises:
            BlobCorruptError: the bytes do not have the announced digest. BlobMissingError: the object does not exist.
            StoreUnavailableError, StoreRefusedError: the store does not answer, or refuses.
        """
        event = self._event
        return await read_verified(
            self._blobs,
            event.store_key,
            offset=event.store_offset,
            size_bytes=event.size_bytes,
            digest=event.digest,
        )
