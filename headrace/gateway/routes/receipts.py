"""`GET /api/v1/receipts/{digest}`: proof that bytes are durable, after which a device may delete its copy."""

import time

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device
from headrace.gateway.deps import BlobsDep, QueriesDep, SettingsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.blob_stream import is_stored, require_not_archived
from headrace.gateway.queries.parameters import Digest
from headrace.gateway.queries.receipts import sign
from headrace.gateway.queries.scopes import scopes_of
from headrace.schemas.digest import is_digest
from headrace.schemas.headers import rfc3339

router = APIRouter(prefix="/api/v1/receipts", tags=["records"])


class Receipt(BaseModel):
    """One record, and that its bytes are in the store."""

    record_id: str
    kind: str = Field(examples=["frame"])
    digest: str
    size_bytes: int = Field(description="Of the bytes with this digest.")
    ingested_at: str = Field(examples=["2026-01-31T12:00:00.250000Z"])
    stored: bool = Field(description="Always true: the store was asked for the object and its length just now.")


class Receipts(BaseModel):
    """The records of one digest, one for each kind."""

    digest: str
    receipts: list[Receipt]
    receipt: str | None = Field(
        description="The same, signed (a JWT, HS256), to be shown later; null where the gateway has no secret."
    )


@router.get("/{digest}", response_model=Receipts, responses=problem_responses(404, 409))
async def read_receipts(
    queries: QueriesDep, blobs: BlobsDep, settings: SettingsDep, principal: Device, digest: Digest
) -> JSONResponse:
    """Prove that bytes are durable: catalogued, and found in the store while this is answered. Never kept."""
    place = await queries.blob(digest) if is_digest(digest) else None
    records = await queries.records_of(digest, scopes_of(principal)) if place is not None else []
    if place is None or not records:
        raise Problem(
            404,
            ProblemCode.NOT_FOUND,
            "no such bytes are durable here, or the key does not reach them",
            hint="keep the copy, and ask again",
            headers=_NEVER_KEPT,
        )
    require_not_archived(digest, place)
    if not await is_stored(blobs, place):
        raise Problem(
            404,
            ProblemCode.NOT_FOUND,
            "these bytes are catalogued, but the store does not have them whole",
            hint="keep the copy, and send it again",
            headers=_NEVER_KEPT,
        )
    receipts = [
        Receipt(
            record_id=str(one.record_id),
            kind=one.kind,
            digest=digest,
            size_bytes=place.size_bytes,
            ingested_at=rfc3339(one.ingested_at_us),
            stored=True,
        ).model_dump()
        for one in records
    ]
    secret = settings.gateway_token_secret.get_secret_value()
    signed = sign(digest, receipts, secret=secret, now_s=time.time()) if secret else None
    return JSONResponse({"digest": digest, "receipts": receipts, "receipt": signed}, headers=_NEVER_KEPT)


_NEVER_KEPT = {"Cache-Control": "no-store"}
