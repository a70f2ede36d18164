"""`POST /ingest`: one file, as the multimodal ingestion module's clients send it."""

from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, PerAddress, require_reach
from headrace.gateway.problems import documented
from headrace.gateway.services import Here
from headrace.gateway.uploads.answers import status_of, status_path
from headrace.gateway.uploads.idempotency import fingerprint_of, once
from headrace.gateway.uploads.publish import settle, source_of
from headrace.gateway.uploads.upload_form import form_body, received_form

router = APIRouter(tags=["files"])


class FileAnswer(BaseModel):
    """What became of a file."""

    id: str = Field(description="The record's id.", examples=["0b5f4d0e-2f0a-5b0e-9a58-1f6c1f6f2d11"])
    request_id: str
    status: str = Field(description="`ingested`, or `accepted` while it is not durable yet.", examples=["ingested"])
    filename: str | None
    sha256: str
    size_bytes: int
    media_type: str
    status_url: str = Field(examples=["/api/v1/ingest/status/8b1c…"])


@router.post(
    "/ingest",
    response_model=FileAnswer,
    responses={202: {"model": FileAnswer, "description": "It is on its way."}, **documented(409)},
    openapi_extra=form_body({"file": "binary", "source_id": "string", "site": "string"}, required=["file"]),
)
async def ingest(request: Request, here: Here, caller: Device, _limit: PerAddress) -> JSONResponse:
    """Take one image or video, of any size up to 2 GiB, as it streams in."""
    async with once(request, here.access, caller) as first, received_form(request, here, caller, files_max=1) as form:
        file = form.only_file()
        source = source_of(here, caller, form.fields.get("site"), form.fields.get("source_id"), "gateway")
        require_reach(request, caller, source.site, source.source_id)
        said = fingerprint_of(request, [form.fields, file.received.sha256])
        if (before := first.replay(said)) is not None:
            return before
        taken = await form.take(file, source)
        request_id = uuid4()
        [outcome] = await settle(here, caller, source, request_id, [taken])
        answer = FileAnswer(
            id=str(taken.place.record_id),
            request_id=str(request_id),
            status=status_of(outcome),
            filename=taken.item.filename,
            sha256=file.received.sha256,
            size_bytes=file.received.size_bytes,
            media_type=taken.item.media_type or "",
            status_url=status_path(request_id),
        )
        response = JSONResponse(answer.model_dump(), 200 if outcome.ingested else 202)
        await first.keep(response)
        return response
