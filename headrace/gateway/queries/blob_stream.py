"""The bytes of a blob, out of the store: in pieces, from an object of its own or from a pack."""

from collections.abc import AsyncIterator
from typing import NoReturn

from headrace.gateway.problems import RETRY_AFTER_S, Problem, ProblemCode
from headrace.gateway.queries.ranges import Span
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import BlobPlace
from headrace.schemas.headers import rfc3339
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.errors import BlobCorruptError, BlobMissingError, StoreRefusedError, StoreUnavailableError

PIECE_BYTES = 1 * MIB  # one request to the store, and all that a download holds in memory


async def streamed(blobs: Blobs, place: BlobPlace, span: Span) -> AsyncIterator[bytes]:
    """Return the bytes of a span. The first piece is read before this returns, so that a fault can still be answered.

    Raises:
        Problem: the store is away or refuses (503), or has the bytes no longer (410).
    """
    try:
        first = await _piece(blobs, place, span.offset, min(span.length, PIECE_BYTES))
    except (StoreUnavailableError, StoreRefusedError, BlobMissingError, BlobCorruptError) as error:
        refuse(error)
    return _pieces(blobs, place, span, first)


async def is_stored(blobs: Blobs, place: BlobPlace) -> bool:
    """Say whether the store has the bytes now: the object is there, and as long as it has to be.

    Raises:
        Problem: the store is away or refuses (503).
    """
    try:
        seen = await blobs.stat(place.store_key)
    except (StoreUnavailableError, StoreRefusedError) as error:
        refuse(error)
    if seen is None:
        return False
    if place.store_offset is None:
        return seen.size_bytes == place.size_bytes
    return seen.size_bytes >= place.store_offset + place.size_bytes


def require_not_archived(digest: str, place: BlobPlace) -> None:
    """Refuse what lies in the archive.

    Raises:
        Problem: it does (409), with how to bring it back.
    """
    if place.archived_at_us is not None:
        raise Problem(
            409,
            ProblemCode.ARCHIVED,
            f"these bytes are in the archive since {rfc3339(place.archived_at_us)}",
            hint=f"`headrace restore {digest}`, run by whoever operates the service, brings them back",
            headers={"Cache-Control": "no-store"},
        )


def refuse(error: StoreUnavailableError | StoreRefusedError | BlobMissingError | BlobCorruptError) -> NoReturn:
    """Answer a fault of the store; where it lies stays in the log.

    Raises:
        Problem: always.
    """
    get_log().warning(Action.REFUSED, code=error.code, why=error.what, address=error.where)
    if isinstance(error, BlobMissingError | BlobCorruptError):
        raise Problem(
            410, ProblemCode.GONE, "the store no longer has these bytes", hint="`headrace fsck` names what is lost"
        )
    raise Problem(
        503,
        ProblemCode.UNAVAILABLE,
        f"the blob store cannot serve this now ({error.code})",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


async def _pieces(blobs: Blobs, place: BlobPlace, span: Span, first: bytes) -> AsyncIterator[bytes]:
    if first:
        yield first
    # Whatever fails from here on ends the connection before its Content-Length: the caller sees that it is not whole.
    for offset in range(span.offset + len(first), span.offset + span.length, PIECE_BYTES):
        yield await _piece(blobs, place, offset, min(PIECE_BYTES, span.offset + span.length - offset))


async def _piece(blobs: Blobs, place: BlobPlace, offset: int, length: int) -> bytes:
    data = await blobs.get(place.store_key, offset=(place.store_offset or 0) + offset, length=length)
    if len(data) != length:
        raise BlobCorruptError(place.store_key, f"{len(data)} bytes instead of {length}", where=blobs.where)
    return data
