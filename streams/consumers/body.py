"""A record's bytes, read from the store when a handler asks for them."""

import asyncio

from runtime.errors import HeadraceError
from schemas.digest import sha256_hex
from schemas.events import Ingested
from store.blobs import Blobs

HASH_IN_THREAD_BYTES_MIN = 256 * 1024  # below this a thread's hop costs more than the hash (0.6 µs a KiB)


class BodyCorrupt(HeadraceError):  # noqa: N818 - named for what happened
    """The bytes in the store are not those that the announcement speaks of."""

    def __init__(self, event: Ingested, found: str) -> None:
        super().__init__(
            "body_corrupt",
            f"the body of {event.kind} {event.record_id} is not what was announced: {found}",
            where=event.store_key,
            hint="`headrace fsck --repair` restores it from a copy where there is one",
        )


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
            BodyCorrupt: they do not hash to the announced digest. BlobMissing: there is no such object.
            StoreUnavailable, StoreRefused: the store does not answer, or does not let us in.
        """
        event = self._event
        if event.store_offset is None:
            data = await self._blobs.get(event.store_key)
        else:
            data = await self._blobs.get(event.store_key, offset=event.store_offset, length=event.size_bytes)
        if len(data) != event.size_bytes:
            raise BodyCorrupt(event, f"{len(data)} bytes instead of {event.size_bytes}")
        digest = await digest_of(data)
        if digest != event.digest:
            raise BodyCorrupt(event, f"its SHA-256 is {digest}")
        return data


async def digest_of(data: bytes) -> str:
    """Return the SHA-256 of `data`; the event loop is not held up by large ones."""
    if len(data) < HASH_IN_THREAD_BYTES_MIN:
        return sha256_hex(data)
    return await asyncio.to_thread(sha256_hex, data)
