"""`GET /api/v1/blobs/{sha256}`: download a blob. `GET /api/v1/receipts/{digest}`: proof that it is durable."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from headrace.gateway.auth.guard import Device, limit_requests
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import BlobsDep, PipelineDep, QueriesDep, ReceiptKeyDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.blob_stream import (
    CHUNK_BYTES,
    is_stored,
    raise_store_problem,
    require_not_archived,
    stream_blob,
)
from headrace.gateway.queries.conditional import (
    VARY,
    ByteRange,
    RangeNotSatisfiableError,
    is_not_modified,
    requested_range,
)
from headrace.gateway.queries.known_parameters import KNOWN_PARAMETERS
from headrace.gateway.queries.parameters import Digest
from headrace.gateway.queries.scopes import scopes_of
from headrace.gateway.uploads.memory import MemoryReservation
from headrace.runtime.receipt_key import RECEIPT_AUDIENCE
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import is_digest
from headrace.schemas.headers import rfc3339
from headrace.schemas.media.formats import EXTENSIONS
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.queries import Queries
from headrace.store.errors import StoreRefusedError, StoreUnavailableError

router = APIRouter(prefix="/api/v1/blobs", tags=["records"], dependencies=[KNOWN_PARAMETERS])
KEYS_PATH = "/.well-known/jwks.json"

receipts_router = APIRouter(tags=["records"])

AT_SITE_S = 10  # until bytes that a site has may be here
LINK_S = 300  # validity of a presigned URL
_NO_STORE = {"Cache-Control": "no-store"}
_IMMUTABLE = "private, max-age=31536000, immutable"  # the name is the digest of the bytes


class Receipt(BaseModel):
    """A record whose bytes are in the store."""

    record_id: str
    kind: str = Field(examples=["frame"])
    digest: str
    size_bytes: int = Field(description="Size of the blob.")
    ingested_at: str = Field(examples=["2026-01-31T12:00:00.250000Z"])
    stored: bool = Field(description="Always true: the object and its size were verified in the store.")


class Receipts(BaseModel):
    """The records of a digest, one for each kind."""

    digest: str
    receipts: list[Receipt]
    receipt: str | None = Field(description="The same as a signed JWT (Ed25519); null if the gateway signs none.")


_BYTES: dict[str, Any] = {
    "description": "The bytes of the blob.",
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for media_type in (*sorted(EXTENSIONS), "application/octet-stream")
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: _BYTES,
    206: {**_BYTES, "description": "The requested range."},
    304: {"description": "Not modified."},
    307: {"description": "A presigned URL of the blob, valid for five minutes."},
    **problem_responses(404, 409, 410, 416),
}


@router.get("/{sha256}", response_class=Response, responses=_RESPONSES)
async def read_blob(
    request: Request,
    queries: QueriesDep,
    blobs: BlobsDep,
    pipeline: PipelineDep,
    principal: Device,
    sha256: Digest,
    redirect: Annotated[  # noqa: FBT002 - a query parameter
        bool,
        Query(description="Redirect to a presigned URL where the store has one for the blob."),
    ] = False,
) -> Response:
    """Return the bytes of a blob, or the range in `Range`."""
    location = await _location(queries, principal, sha256)
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": _IMMUTABLE, "Vary": VARY, "Accept-Ranges": "bytes"}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    require_not_archived(sha256, location)
    if redirect and (link := await _link(blobs, location)) is not None:
        return RedirectResponse(link, 307, _NO_STORE)
    part = _requested_range(request, etag, location)
    content = part or ByteRange(0, location.size_bytes)
    headers |= _content_headers(sha256, content)
    if part is not None:
        headers["Content-Range"] = part.content_range(location.size_bytes)
    reservation = MemoryReservation(pipeline.receiver.memory, principal.actor)
    reservation.require(min(content.length, CHUNK_BYTES))
    try:
        chunks = await stream_blob(blobs, location, content)
    except BaseException:
        reservation.close()
        raise
    status = 206 if part is not None else 200
    return _Download(chunks, reservation, status_code=status, headers=headers, media_type=location.media_type)


@router.head("/{sha256}", response_class=Response, responses=_RESPONSES)
async def head_blob(request: Request, queries: QueriesDep, principal: Device, sha256: Digest) -> Response:
    """Return the headers of a blob, without a request to the store."""
    location = await _location(queries, principal, sha256)
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": _IMMUTABLE, "Vary": VARY, "Accept-Ranges": "bytes"}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    require_not_archived(sha256, location)
    return Response(
        headers=headers | _content_headers(sha256, ByteRange(0, location.size_bytes)), media_type=location.media_type
    )


@receipts_router.get("/api/v1/receipts/{digest}", response_model=Receipts, responses=problem_responses(404, 409))
async def read_receipts(
    queries: QueriesDep, blobs: BlobsDep, signer: ReceiptKeyDep, principal: Device, digest: Digest
) -> JSONResponse:
    """Confirm that a blob is durable: it is catalogued, and the store has it now. The answer is never cached."""
    location = await queries.blob(digest) if is_digest(digest) else None
    records = await queries.records_of(digest, scopes_of(principal)) if location is not None else []
    if location is None or not records:
        raise Problem(
            404,
            ProblemCode.NOT_FOUND,
            "no durable blob found",
            hint="keep the copy, and ask again",
            headers=_NO_STORE,
        )
    require_not_archived(digest, location)
    if not await is_stored(blobs, location):
        raise Problem(
            404,
            ProblemCode.NOT_FOUND,
            "the blob is catalogued, but missing or incomplete in the store",
            hint="keep the copy, and send it again",
            headers=_NO_STORE,
        )
    receipts = [
        Receipt(
            record_id=str(record.record_id),
            kind=record.kind,
            digest=digest,
            size_bytes=location.size_bytes,
            ingested_at=rfc3339(record.ingested_at_us),
            stored=True,
        ).model_dump()
        for record in records
    ]
    receipt = signer.sign(RECEIPT_AUDIENCE, digest, {"receipts": receipts})
    return JSONResponse({"digest": digest, "receipts": receipts, "receipt": receipt}, headers=_NO_STORE)


@receipts_router.get(KEYS_PATH, openapi_extra={"security": []}, responses=problem_responses())
async def read_receipt_keys(request: Request, signer: ReceiptKeyDep) -> dict[str, Any]:
    """Return the public keys of receipts as a JSON Web Key Set (RFC 7517); without a secret it has none."""
    await limit_requests(request, None)
    return signer.keys


class _Download(StreamingResponse):
    """A streamed blob, whose chunk is held in the memory of requests until the response ends."""

    def __init__(self, chunks: AsyncIterator[bytes], reservation: MemoryReservation, **options: Any) -> None:
        super().__init__(chunks, **options)
        self._reservation = reservation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reservation.close()


async def _location(queries: Queries, principal: Principal, sha256: str) -> BlobLocation:
    """Return the location of a blob.

    Raises:
        Problem: it does not exist, or no record of it is within the principal's scope (404); it is at a site (409).
    """
    location = await queries.blob(sha256) if is_digest(sha256) else None
    records = await queries.records_of(sha256, scopes_of(principal)) if is_digest(sha256) else []
    if not records or (location is None and not await queries.transfers_of(sha256)):
        raise Problem(404, ProblemCode.NOT_FOUND, "blob not found")
    if location is None:
        # The site that the reader's own record names: it must learn of no other.
        raise Problem(
            409,
            ProblemCode.AT_SITE,
            f"the bytes are not here yet: they are at {records[0].site}",
            hint=f"POST /api/v1/transfers/{records[0].record_id} has them brought before all others",
            headers=_NO_STORE | {"Retry-After": str(AT_SITE_S)},
        )
    return location


def _requested_range(request: Request, etag: str, location: BlobLocation) -> ByteRange | None:
    """Return the requested range, or None for all bytes; an If-Range with another entity tag requests all bytes.

    Raises:
        Problem: the range has no byte of the blob (416).
    """
    if request.headers.get("if-range", etag).strip() != etag:
        return None
    try:
        return requested_range(request.headers.get("range"), location.size_bytes)
    except RangeNotSatisfiableError:
        raise Problem(
            416,
            ProblemCode.RANGE_NOT_SATISFIABLE,
            f"the range has no byte of the blob, whose size is {location.size_bytes}",
            headers={"Content-Range": f"bytes */{location.size_bytes}", "Accept-Ranges": "bytes"},
        ) from None


async def _link(blobs: Blobs, location: BlobLocation) -> str | None:
    # A URL of a pack would expose other blobs.
    if location.store_offset is not None:
        return None
    try:
        return await blobs.presign(location.store_key, LINK_S)
    except (StoreUnavailableError, StoreRefusedError) as error:
        raise_store_problem(error)


def _content_headers(sha256: str, content: ByteRange) -> dict[str, str]:
    # A browser must download it instead of showing it as a page of this origin.
    return {"Content-Length": str(content.length), "Content-Disposition": f'attachment; filename="{sha256}"'}
