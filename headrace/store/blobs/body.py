"""A record's bytes, read from the store on demand."""

from headrace.schemas.digest import erased_key
from headrace.schemas.events import Ingested
from headrace.schemas.headers import rfc3339
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_verified
from headrace.store.errors import BlobArchivedError, BlobCorruptError, BlobErasedError, BlobMissingError


class Body:
    """The bytes of one record, which `read` fetches."""

    def __init__(self, event: Ingested, blobs: Blobs, *, archived_at_us: int | None = None) -> None:
        """With `archived_at_us` the event names a place in the archive, which is not read."""
        self._event = event
        self._blobs = blobs
        self._archived_at_us = archived_at_us

    @property
    def size_bytes(self) -> int:
        """The size in bytes."""
        return self._event.size_bytes

    async def read(self) -> bytes:
        """Return the verified bytes; may be repeated, and reads them again each time.

        Raises:
            BlobErasedError: the bytes were erased; the event is skipped if its handler lets this through.
            BlobArchivedError: `headrace restore` has to bring the bytes back first; only in a backfill.
            BlobCorruptError: the bytes do not have the announced digest. BlobMissingError: the object does not exist.
            StoreUnavailableError, StoreRefusedError: the store does not answer, or refuses.
        """
        event = self._event
        if self._archived_at_us is not None:
            raise BlobArchivedError(event.digest, rfc3339(self._archived_at_us))
        try:
            return await read_verified(
                self._blobs,
                event.store_key,
                offset=event.store_offset,
                size_bytes=event.size_bytes,
                digest=event.digest,
            )
        except (BlobMissingError, BlobCorruptError):
            if await self._blobs.stat(erased_key(event.digest)) is not None:
                raise BlobErasedError(event.digest, where=self._blobs.where) from None
            raise

    async def is_there(self) -> bool:
        """Return whether the object with the bytes exists; one that lies in a pack is not asked for."""
        return self._event.store_offset is not None or await self._blobs.stat(self._event.store_key) is not None
