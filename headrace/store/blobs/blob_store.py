"""The blob store: S3 and what speaks it, Google Cloud Storage, Azure, or a local directory, by URL.

Every key that the service writes under blobs/ and packs/ is the digest of the bytes, so a PUT may always be repeated,
and finding the object there is success. Nothing here depends on what only one store can do: where conditional PUTs are
not known, a plain one writes the same bytes again.

A local directory serves development and tests. Objects appear there whole or not at all, but obstore does not fsync
them: they survive the end of any process, not a power cut. A copy within it is a hard link.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_errors import StoreFailure, blob_errors, store_failure_of
from headrace.store.blobs.store_url import OpenedStore, StoreAccess, open_target
from headrace.store.errors import BlobMissingError, StoreRefusedError, StoreUnavailableError

if TYPE_CHECKING:
    # These exist for the type checker only.
    from obstore import Attributes, GetOptions

MIB = 1024 * 1024
STREAM_PART_BYTES = 8 * MIB  # of an upload in parts; S3 asks for at least 5 MiB
STREAM_PARTS_AT_ONCE_MAX = 2  # so an upload of any size holds at most three parts: two on the way, one being filled
BULK_BYTES_MIN = 8 * MIB  # a body from this size on has the longer time of the bulk client
LIST_PAGE_OBJECTS = 1000


@dataclass(frozen=True, slots=True)
class BlobStat:
    """The metadata of an object; sizes in bytes, times in UTC."""

    key: str
    size_bytes: int
    modified_at: datetime


class Blobs:
    """Objects by key. Every method may be repeated, and raises StoreUnavailableError or StoreRefusedError."""

    def __init__(self, target: OpenedStore) -> None:
        """Use an opened target; see `open`."""
        self.where = target.where
        self._quick = target.quick
        self._bulk = target.bulk
        self._copying = target.copying
        self._keeps_media_type = not isinstance(target.quick, LocalStore)
        self._conditional = True

    @classmethod
    def open(
        cls, url: str, *, endpoint: str = "", region: str = "", access_key: str = "", secret_key: str = ""
    ) -> Self:
        """Open the store at s3://bucket, gs://bucket, az://container or file:///directory, without a request.

        Without keys the environment's own credentials are used (an instance's role, a service account).

        Raises:
            StoreRefusedError: the URL's scheme is unknown.
        """
        return cls(open_target(url, StoreAccess(endpoint, region, access_key, secret_key)))

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open the store that the settings name; as `open`."""
        return cls(open_target(settings.store_url, StoreAccess.of(settings)))

    async def put(self, key: str, data: bytes, *, media_type: str | None = None) -> bool:
        """Write an object whose key is the digest of its bytes; return False if it exists already.

        An object of that key but another size is wrong, and is replaced.
        """
        with blob_errors(self.where, f"PUT {key}"):
            if await self._create(key, data, media_type):
                return True
            # A conflict counts as "exists" only if the object can be read: S3 answers the same 409 while another
            # request for the key is in progress, which may be a deletion.
            seen = await self.stat(key)
            if seen is not None and seen.size_bytes == len(data):
                return False
            await self._put(key, data, media_type, conditional=False)
            return True

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object unless its key exists; return False if it does, whatever its bytes.

        A store without conditional writes replaces it.
        """
        with blob_errors(self.where, f"PUT {key}"):
            return await self._create(key, data, None)

    async def replace(self, key: str, data: bytes, *, media_type: str | None = None) -> None:
        """Write an object even if one of the same size exists, which `put` would keep."""
        await self.put_stream(key, once(data), media_type=media_type)

    async def put_stream(self, key: str, chunks: AsyncIterator[bytes], *, media_type: str | None = None) -> None:
        """Write or replace an object of any size, in parts and in bounded memory; it appears when it is complete."""
        with blob_errors(self.where, f"PUT {key}"):
            await obstore.put_async(
                self._bulk,
                key,
                chunks,
                attributes=self._attributes(media_type),
                chunk_size=STREAM_PART_BYTES,
                max_concurrency=STREAM_PARTS_AT_ONCE_MAX,
            )

    async def get(self, key: str, *, offset: int | None = None, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `offset`, or fewer at its end.

        Raises:
            BlobMissingError: the object does not exist.
        """
        try:
            with blob_errors(self.where, f"GET {key}", key=key):
                return await self._get(key, offset, length)
        except (StoreRefusedError, StoreUnavailableError):
            # A part that begins behind the end is an error to every store, each in its own words.
            seen = await self.stat(key) if offset else None
            if seen is None or offset is None or seen.size_bytes > offset:
                raise
            return b""

    async def stat(self, key: str) -> BlobStat | None:
        """Return an object's size and time, or None if it does not exist."""
        try:
            with blob_errors(self.where, f"HEAD {key}", key=key):
                meta = await obstore.head_async(self._quick, key)
        except BlobMissingError:
            return None
        return BlobStat(key, meta["size"], meta["last_modified"])

    async def stream(self, key: str, chunk_bytes: int) -> AsyncGenerator[bytes]:
        """Read an object of any size in chunks; the last one may be shorter.

        Each chunk is a request of its own, so none of them runs into a time limit because the reader is slow.

        Raises:
            BlobMissingError: there is no such object.
        """
        seen = await self.stat(key)
        if seen is None:
            raise BlobMissingError(key, where=self.where)
        for offset in range(0, seen.size_bytes, chunk_bytes):
            yield await self.get(key, offset=offset, length=min(chunk_bytes, seen.size_bytes - offset))

    async def copy(self, source: str, target: str) -> None:
        """Copy an object within the store, replacing what is there.

        Raises:
            BlobMissingError: the source does not exist.
        """
        with blob_errors(self.where, f"COPY {source}", key=source):
            await obstore.copy_async(self._copying, source, target)

    async def delete(self, key: str) -> None:
        """Delete an object; a missing one is success."""
        try:
            with blob_errors(self.where, f"DELETE {key}", key=key):
                await obstore.delete_async(self._quick, key)
        except BlobMissingError:
            return

    async def list(self, prefix: str) -> AsyncGenerator[BlobStat]:
        """List every object below a prefix, which ends at a '/', in the store's order."""
        with blob_errors(self.where, f"LIST {prefix}"):
            async for page in obstore.list(self._quick, prefix or None, chunk_size=LIST_PAGE_OBJECTS):
                for meta in page:
                    yield BlobStat(meta["path"], meta["size"], meta["last_modified"])

    async def presign(self, key: str, seconds: float) -> str | None:
        """Return a presigned URL of an object, or None if the store has none.

        No request is sent: a missing object shows when the URL is used.
        """
        if not isinstance(self._quick, S3Store | GCSStore | AzureStore):
            return None
        with blob_errors(self.where, f"SIGN {key}"):
            return await obstore.sign_async(self._quick, "GET", key, timedelta(seconds=seconds))

    async def check(self) -> None:
        """Check that the store answers, accepts the credentials, and has the bucket; for readiness."""
        # A list is the cheapest request whose refusal says why: a HEAD's answer has no body.
        async with aclosing(self._first_page()) as pages:
            async for _ in pages:
                return

    async def _get(self, key: str, offset: int | None, length: int | None) -> bytes:
        if offset is None and length is None:
            return (await (await obstore.get_async(self._bulk, key)).bytes_async()).to_bytes()
        if length == 0:
            return b""
        if length is None:
            options: GetOptions = {"range": {"offset": offset or 0}}
            return (await (await obstore.get_async(self._bulk, key, options=options)).bytes_async()).to_bytes()
        part = await obstore.get_range_async(self._quick, key, start=offset or 0, length=length)
        return part.to_bytes()

    async def _first_page(self) -> AsyncGenerator[None]:
        with blob_errors(self.where, "LIST"):
            async for _ in obstore.list(self._quick, "readiness", chunk_size=1):
                yield

    async def _create(self, key: str, data: bytes, media_type: str | None) -> bool:
        try:
            await self._put(key, data, media_type, conditional=self._conditional)
        except AlreadyExistsError:
            return False
        except Exception as error:
            if not self._conditional or store_failure_of(error) is not StoreFailure.NOT_IMPLEMENTED:
                raise
            self._conditional = False
            await self._put(key, data, media_type, conditional=False)
        return True

    async def _put(self, key: str, data: bytes, media_type: str | None, *, conditional: bool) -> None:
        # Never in parts: one request, one signature, and the store's own atomicity (328 µs against 1,400 and more).
        await obstore.put_async(
            self._bulk if len(data) >= BULK_BYTES_MIN else self._quick,
            key,
            data,
            attributes=self._attributes(media_type),
            mode="create" if conditional else "overwrite",
            use_multipart=False,
        )

    def _attributes(self, media_type: str | None) -> "Attributes | None":
        return {"Content-Type": media_type} if media_type and self._keeps_media_type else None


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes as a stream's only chunk."""
    yield data
