"""`GET /api/v1/blobs/{sha256}`: the bytes, whole or in part, or an address in the store where they are."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from headrace.gateway.auth.guard import Device
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import BlobsDep, QueriesDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.blob_stream import refuse, require_not_archived, streamed
from headrace.gateway.queries.conditional import VARY, is_not_modified
from headrace.gateway.queries.parameters import Digest
from headrace.gateway.queries.ranges import RangeNotSatisfiableError, Span, span_of
from headrace.gateway.queries.scopes import scopes_of
from headrace.schemas.catalog_rows import BlobPlace
from headrace.schemas.digest import is_digest
from headrace.schemas.validate import CLIP_MEDIA_TYPE, FRAME_MEDIA_TYPES
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.queries import Queries
from headrace.store.errors import StoreRefusedError, StoreUnavailableError

router = APIRouter(prefix="/api/v1/blobs", tags=["records"])

LINK_S = 300  # how long an address in the store is good
_KEPT = "private, max-age=31536000, immutable"  # other bytes would have another name

_BYTES: dict[str, Any] = {
    "description": "The bytes.",
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for media_type in (*sorted(FRAME_MEDIA_TYPES), CLIP_MEDIA_TYPE, "application/json", "application/octet-stream")
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _BYTES,
    206: {**_BYTES, "description": "The range that was asked for."},
    304: {"description": "The caller has it already."},
    307: {"description": "They are there, for five minutes."},
    **problem_responses(404, 409, 410, 416),
}


@router.get("/{sha256}", response_class=Response, responses=_ANSWERS)
async def read_blob(
    request: Request,
    queries: QueriesDep,
    blobs: BlobsDep,
    principal: Device,
    sha256: Digest,
    redirect: Annotated[  # noqa: FBT002 - a query parameter
        bool, Query(description="Answer with an address in the store, where the store can and the bytes are alone.")
    ] = False,
) -> Response:
    """Return a blob's bytes: all, or the one range that `Range` asks for."""
    place = await _place(queries, principal, sha256)
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": _KEPT, "Vary": VARY, "Accept-Ranges": "bytes"}
    if is_not_modified(request, tag):
        return Response(status_code=304, headers=headers)
    require_not_archived(sha256, place)
    if redirect and (link := await _link(blobs, place)) is not None:
        return RedirectResponse(link, 307, {"Cache-Control": "no-store"})
    whole = Span(0, place.size_bytes)
    span = _asked(request, tag, place)
    headers |= _about(sha256, span or whole)
    if span is not None:
        headers["Content-Range"] = span.of(place.size_bytes)
    pieces = await streamed(blobs, place, span or whole)
    return StreamingResponse(pieces, 206 if span is not None else 200, headers, media_type=place.media_type)


@router.head("/{sha256}", response_class=Response, responses=_ANSWERS)
async def head_blob(request: Request, queries: QueriesDep, principal: Device, sha256: Digest) -> Response:
    """Say what a GET would answer; the store is not asked."""
    place = await _place(queries, principal, sha256)
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": _KEPT, "Vary": VARY, "Accept-Ranges": "bytes"}
    if is_not_modified(request, tag):
        return Response(status_code=304, headers=headers)
    require_not_archived(sha256, place)
    return Response(headers=headers | _about(sha256, Span(0, place.size_bytes)), media_type=place.media_type)


async def _place(queries: Queries, principal: Principal, sha256: str) -> BlobPlace:
    """Return where a blob is that the caller reaches.

    Raises:
        Problem: there is none, or the caller has no part in it: both look the same (404).
    """
    place = await queries.blob(sha256) if is_digest(sha256) else None
    if place is None or not await queries.records_of(sha256, scopes_of(principal)):
        raise Problem(404, ProblemCode.NOT_FOUND, "there are no such bytes, or the key does not reach them")
    return place


def _asked(request: Request, tag: str, place: BlobPlace) -> Span | None:
    """Return the range that is asked for; with an If-Range of other bytes, it is the whole.

    Raises:
        Problem: it lies outside (416).
    """
    if request.headers.get("if-range", tag).strip() != tag:
        return None
    try:
        return span_of(request.headers.get("range"), place.size_bytes)
    except RangeNotSatisfiableError:
        raise Problem(
            416,
            ProblemCode.RANGE_NOT_SATISFIABLE,
            f"there are {place.size_bytes} bytes, and none in that range",
            headers={"Content-Range": f"bytes */{place.size_bytes}", "Accept-Ranges": "bytes"},
        ) from None


async def _link(blobs: Blobs, place: BlobPlace) -> str | None:
    # An address of a pack would show what others have in it.
    if place.store_offset is not None:
        return None
    try:
        return await blobs.presign(place.store_key, LINK_S)
    except (StoreUnavailableError, StoreRefusedError) as error:
        refuse(error)


def _about(sha256: str, span: Span) -> dict[str, str]:
    # Whatever it is, a browser must keep it as a file instead of showing it as a page of this gateway.
    return {"Content-Length": str(span.length), "Content-Disposition": f'attachment; filename="{sha256}"'}
