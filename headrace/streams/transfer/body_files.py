"""Brings the bytes of one body from a site's store to a file, part by part, and verifies them.

The file stays until its bytes are in the own store: whoever is killed goes on where it ended. What a power cut did to
the file shows in its SHA-256, and then the body is read again from its start.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import file_digest
from pathlib import Path

from headrace.runtime import crash_points, metrics
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.transfers import Transfer
from headrace.store.errors import BlobCorruptError

PART_BYTES = 512 * 1024  # of one request: even a link of 256 kbit/s takes less than a request's time limit for it
READ_BYTES = 8 * 1024 * 1024


class BodyFiles:
    """The files of a site's bodies that are under way."""

    def __init__(self, directory: Path, site_store: Blobs, *, reached: Reached = crash_points.reached) -> None:
        """`reached` is called at each crash point."""
        self._directory = directory
        self._store = site_store
        self._reached = reached

    def path(self, transfer: Transfer) -> Path:
        """Return the file of a body."""
        return self._directory / f"{transfer.digest.hex()}.part"

    async def fetch(self, transfer: Transfer, before_part: Callable[[int], Awaitable[bool]]) -> bool:
        """Read what is missing of a body; `before_part` gets the size of each part, and returns False to leave off.

        Returns whether the body is whole, and has its digest.

        Raises:
            BlobCorruptError: the site's store has other bytes. BlobMissingError: it has none.
            StoreUnavailableError, StoreRefusedError: it does not answer, or refuses.
        """
        path = self.path(transfer)
        self._directory.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() > transfer.size_bytes:
                file.truncate(0)
            have_bytes = path.stat().st_size
            while have_bytes < transfer.size_bytes:
                length = min(PART_BYTES, transfer.size_bytes - have_bytes)
                if not await before_part(length):
                    return False
                file.write(await self._part(transfer, have_bytes, length))
                file.flush()
                have_bytes += length
                self._reached(CrashPoint.TRANSFER_AFTER_PART)
        actual = await asyncio.to_thread(_sha256_of, path)
        if actual != transfer.digest:
            path.unlink()
            raise BlobCorruptError(transfer.store_key, f"its SHA-256 is {actual.hex()}", where=self._store.where)
        return True

    async def _part(self, transfer: Transfer, offset: int, length: int) -> bytes:
        data = await self._store.get(transfer.store_key, offset=(transfer.store_offset or 0) + offset, length=length)
        if len(data) != length:
            mismatch = f"{offset + len(data)} bytes instead of {transfer.size_bytes}"
            raise BlobCorruptError(transfer.store_key, mismatch, where=self._store.where)
        metrics.transfer_bytes_total.labels(transfer.site).inc(length)
        return data

    def discard(self, transfer: Transfer) -> None:
        """Delete a file, if there is one."""
        self.path(transfer).unlink(missing_ok=True)


async def chunks_of(path: Path) -> AsyncIterator[bytes]:
    """Yield a file's bytes."""
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, READ_BYTES):
            yield data


def _sha256_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
