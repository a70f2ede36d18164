"""Stream a blob from the store, from an object of its own or from a pack."""

from collections.abc import AsyncIterator
from typing import NoReturn

from headrace.gateway.problems import Problem, ProblemCode, unavailable
from headrace.gateway.queries.conditional import ByteRange
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.headers import rfc3339
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobCorruptError, BlobMissingError, StoreRefusedError, StoreUnavailableError

CHUNK_BYTES = 1 * MIB  # one request to the store, and all that a download holds in memory


async def stream_blob(blobs: Blobs, location: BlobLocation, part: ByteRange) -> AsyncIterator[bytes]:
    """Return the bytes of a range. The first chunk is read before this returns, so that an error can be answered.

    Raises:
        Problem: the store is unavailable (503), or has lost the bytes (410).
    """
    try:
        first = await _chunk(blobs, location, part.offset, min(part.length, CHUNK_BYTES))
    except (StoreUnavailableError, StoreRefusedError, BlobMissingError, BlobCorruptError) as error:
        raise_store_problem(error)
    return _chunks(blobs, location, part, first)


async def is_stored(blobs: Blobs, location: BlobLocation) -> bool:
    """Return whether the store has the object of a blob, with the expected size.

    Raises:
        Problem: the store is unavailable (503).
    """
    try:
        stat = await blobs.stat(location.store_key)
    except (StoreUnavailableError, StoreRefusedError) as error:
        raise_store_problem(error)
    if stat is None:
        return False
    if location.store_offset is None:
        return stat.size_bytes == location.size_bytes
    return stat.size_bytes >= location.store_offset + location.size_bytes


def require_not_archived(digest: str, location: BlobLocation) -> None:
    """Require that a blob is not archived.

    Raises:
        Problem: it is archived (409).
    """
    if location.archived_at_us is not None:
        raise Problem(
            409,
            ProblemCode.ARCHIVED,
            f"the blob was archived at {rfc3339(location.archived_at_us)}",
            hint=f"ask an operator to run `headrace restore {digest}`",
            headers={"Cache-Control": "no-store"},
        )


def raise_store_problem(
    error: StoreUnavailableError | StoreRefusedError | BlobMissingError | BlobCorruptError,
) -> NoReturn:
    """Raise the problem for an error of the store; its address is only in the log.

    Raises:
        Problem: always.
    """
    get_log().warning(Action.REFUSED, code=error.code, why=error.what, address=error.where)
    if isinstance(error, BlobMissingError | BlobCorruptError):
        raise Problem(410, ProblemCode.GONE, "the blob is lost", hint="`headrace fsck` lists lost blobs")
    raise unavailable(f"the blob store is unavailable ({error.code})")


async def _chunks(blobs: Blobs, location: BlobLocation, part: ByteRange, first: bytes) -> AsyncIterator[bytes]:
    if first:
        yield first
    # A failure from here on closes the connection before Content-Length is reached, so the client notices it.
    for offset in range(part.offset + len(first), part.offset + part.length, CHUNK_BYTES):
        yield await _chunk(blobs, location, offset, min(CHUNK_BYTES, part.offset + part.length - offset))


async def _chunk(blobs: Blobs, location: BlobLocation, offset: int, length: int) -> bytes:
    data = await blobs.get(location.store_key, offset=(location.store_offset or 0) + offset, length=length)
    if len(data) != length:
        raise BlobCorruptError(location.store_key, f"{len(data)} bytes instead of {length}", where=blobs.where)
    return data
