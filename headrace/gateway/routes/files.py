"""`POST /ingest`: one file, as the multimodal ingestion module's clients send it."""

from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, PerAddress, require_source_access
from headrace.gateway.deps import AccessDep, PipelineDep, SettingsDep
from headrace.gateway.problems import problem_responses
from headrace.gateway.uploads.idempotency import idempotent_request, request_fingerprint
from headrace.gateway.uploads.publish import UploadSource, resolve_source
from headrace.gateway.uploads.results import status_of, status_path
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
    responses={202: {"model": FileAnswer, "description": "It is on its way."}, **problem_responses(409)},
    openapi_extra=form_body({"file": "binary", "source_id": "string", "site": "string"}, required=["file"]),
)
async def ingest(
    request: Request,
    access: AccessDep,
    pipeline: PipelineDep,
    settings: SettingsDep,
    principal: Device,
    _limit: PerAddress,
) -> JSONResponse:
    """Take one image or video, of any size up to 2 GiB, as it streams in."""
    async with (
        idempotent_request(request, access, principal) as first,
        received_form(request, principal, pipeline, files_max=1) as form,
    ):
        file = form.only_file()
        default = UploadSource(settings.gateway_site, "gateway")
        source = resolve_source(principal, form.fields.get("site"), form.fields.get("source_id"), default)
        require_source_access(request, principal, source.site, source.source_id)
        said = request_fingerprint(request, [form.fields, file.received.sha256])
        if (before := first.replay(said)) is not None:
            return before
        published = await form.publish(file, source)
        request_id = uuid4()
        [status] = await pipeline.results.record(request_id, principal.actor, source, [published])
        answer = FileAnswer(
            id=str(published.message.record_id),
            request_id=str(request_id),
            status=status_of(status),
            filename=published.item.filename,
            sha256=file.received.sha256,
            size_bytes=file.received.size_bytes,
            media_type=published.item.media_type or "",
            status_url=status_path(request_id),
        )
        response = JSONResponse(answer.model_dump(), 200 if status.ingested else 202)
        await first.keep(response)
        return response
