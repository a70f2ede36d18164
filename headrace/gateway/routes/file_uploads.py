"""Uploads of files: `POST /ingest` in the API of the multimodal ingestion module, `POST /api/v1/ingest/upload` and
`GET /api/v1/ingest/status/{request_id}` in that of the camera ingestion service.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, PerAddress, count_ingest, require_source_access
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import (
    AccessDep,
    BlobsDep,
    IngestRequestsDep,
    IngestStatusesDep,
    PipelineDep,
    SettingsDep,
)
from headrace.gateway.problems import Problem, ProblemCode, problem_of_rejection, problem_responses
from headrace.gateway.uploads.idempotency import idempotent_request, request_fingerprint
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, display_name, resolve_source
from headrace.gateway.uploads.results import (
    FileError,
    FrameInfo,
    IngestionResponse,
    IngestionStatus,
    ItemStatus,
    SourceType,
    state_of,
    status_of,
    status_path,
)
from headrace.gateway.uploads.upload_form import FormFile, ReceivedForm, form_body, received_form
from headrace.schemas.digest import blob_key, record_id
from headrace.schemas.events import Kind
from headrace.schemas.headers import rfc3339
from headrace.schemas.reject import RejectedError
from headrace.store.blobs.blob_store import Blobs
from headrace.store.requests.ingest_requests import IngestRequest, RequestItem
from headrace.store.requests.ingest_status import MessageRef

router = APIRouter(prefix="/api/v1/ingest", tags=["cameras"])
files_router = APIRouter(tags=["files"])

FILES_MAX = 256  # a browser sends a folder that was dropped on it in one form
LINK_S = 3600  # validity of a presigned URL


class FileAnswer(BaseModel):
    """The result for a file."""

    id: str = Field(description="The id of the record.", examples=["0b5f4d0e-2f0a-5b0e-9a58-1f6c1f6f2d11"])
    request_id: str
    status: str = Field(description="`ingested`, or `accepted` while it is not durable yet.", examples=["ingested"])
    filename: str | None
    sha256: str
    size_bytes: int
    media_type: str
    status_url: str = Field(examples=["/api/v1/ingest/status/8b1c…"])


class RequestStatus(BaseModel):
    """The status of a request."""

    request_id: str
    kind: SourceType
    status: IngestionStatus = Field(
        description="Of an upload: uploading, ingested, partial, failed. Of a capture: requested, connecting, "
        "recording, uploading, ingested, failed."
    )
    reason: str | None
    site: str
    camera_id: str
    created_at: str
    updated_at: str
    evidence: dict[str, Any]
    frames: list[FrameInfo]
    errors: list[FileError]


@files_router.post(
    "/ingest",
    response_model=FileAnswer,
    responses={202: {"model": FileAnswer, "description": "Accepted, and not durable yet."}, **problem_responses(409)},
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
    """Ingest an image or a video of up to 2 GiB."""
    async with (
        idempotent_request(request, access, principal) as first,
        received_form(request, principal, pipeline, files_max=1) as form,
    ):
        file = form.only_file()
        default = UploadSource(settings.gateway_site, "gateway")
        source = resolve_source(principal, form.fields.get("site"), form.fields.get("source_id"), default)
        require_source_access(request, principal, source.site, source.source_id)
        fingerprint = request_fingerprint(request, [form.fields, file.received.sha256])
        if (replayed := first.replay(fingerprint)) is not None:
            return replayed
        published = await form.publish(file, source, accepted=partial(count_ingest, request))
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


@router.post(
    "/upload",
    status_code=201,
    response_model=IngestionResponse,
    responses={
        202: {"model": IngestionResponse, "description": "Accepted, not durable yet."},
        **problem_responses(409),
    },
    openapi_extra=form_body(
        {"camera_id": "string", "site": "string", "files": "files"}, required=["camera_id", "files"]
    ),
)
async def upload(
    request: Request, access: AccessDep, pipeline: PipelineDep, settings: SettingsDep, principal: Device
) -> JSONResponse:
    """Ingest images and videos of a camera; the answer has the result of each file, with 422 if none was accepted."""
    async with (
        idempotent_request(request, access, principal) as first,
        received_form(request, principal, pipeline, files_max=FILES_MAX) as form,
    ):
        camera_id = form.fields.get("camera_id")
        if not camera_id:
            raise Problem(422, ProblemCode.INVALID, "the field camera_id is required")
        if not form.files:
            raise Problem(422, ProblemCode.INVALID, "the form has no file")
        default = UploadSource(settings.gateway_site, camera_id)
        source = resolve_source(principal, form.fields.get("site"), camera_id, default)
        require_source_access(request, principal, source.site, source.source_id)
        fingerprint = request_fingerprint(request, [form.fields, [file.received.sha256 for file in form.files]])
        if (replayed := first.replay(fingerprint)) is not None:
            return replayed
        published, failed = await _publish_each(form, source)
        request_id = uuid4()
        statuses = await pipeline.results.record(request_id, principal.actor, source, published, failed)
        items = [ItemStatus.of(entry.item, status) for entry, status in zip(published, statuses, strict=True)]
        items += [ItemStatus.of(item, None) for item in failed]
        response = await _answer(pipeline.receiver.blobs, request_id, source, items)
        await first.keep(response)
        return response


@router.get("/status/{request_id}", response_model=RequestStatus, responses=problem_responses(404))
async def status(
    requests: IngestRequestsDep,
    statuses: IngestStatusesDep,
    blobs: BlobsDep,
    principal: Device,
    request_id: Annotated[UUID, Path(description="The id in the answer to the request.")],
) -> JSONResponse:
    """Return the status of a request, with its frames and errors; it is never cached."""
    ingest_request = await requests.get(request_id)
    if ingest_request is None or not _is_visible(ingest_request, principal):
        raise Problem(404, ProblemCode.NOT_FOUND, "request not found")
    rows = await requests.items(request_id)
    known = iter(await statuses.outcomes([_message(row, ingest_request.created_at_s) for row in rows if row.topic]))
    items = [ItemStatus.of(row, next(known) if row.topic else None) for row in rows]
    state = ingest_request.state if ingest_request.kind == "rtsp" else state_of(items)
    body = RequestStatus(
        request_id=str(request_id),
        kind=SourceType(ingest_request.kind),
        status=IngestionStatus(state),
        reason=ingest_request.reason,
        site=ingest_request.site,
        camera_id=ingest_request.source_id,
        created_at=rfc3339(int(ingest_request.created_at_s * 1e6)),
        updated_at=rfc3339(int(ingest_request.updated_at_s * 1e6)),
        evidence=orjson.loads(ingest_request.evidence),
        frames=[await _file(blobs, item) for item in items if item.code is None],
        errors=[FileError(code=item.code, detail=item.reason or "") for item in items if item.code is not None],
    )
    return JSONResponse(body.model_dump(), headers={"Cache-Control": "no-store"})


def _is_visible(ingest_request: IngestRequest, principal: Principal) -> bool:
    is_own = principal.actor == ingest_request.actor
    return is_own or principal.can_access(ingest_request.site, ingest_request.source_id)


async def _publish_each(form: ReceivedForm, source: UploadSource) -> tuple[list[PublishedItem], list[RequestItem]]:
    published: list[PublishedItem] = []
    failed: list[RequestItem] = []
    for index, file in enumerate(form.files):
        try:
            published.append(await form.publish(file, source, index=index))
        except RejectedError as rejected:
            failed.append(_failed(index, file, problem_of_rejection(rejected)))
        except Problem as problem:
            failed.append(_failed(index, file, problem))
    return published, failed


def _failed(index: int, file: FormFile, problem: Problem) -> RequestItem:
    name = display_name(file.part.filename)
    return RequestItem(
        index=index, filename=name, size_bytes=file.received.size_bytes, code=problem.code, reason=problem.detail
    )


async def _answer(blobs: Blobs, request_id: UUID, source: UploadSource, items: Sequence[ItemStatus]) -> JSONResponse:
    state = state_of(items)
    body = IngestionResponse(
        request_id=str(request_id),
        status=IngestionStatus.ACCEPTED if state is IngestionStatus.UPLOADING else state,
        camera_id=source.source_id,
        files=[await _file(blobs, item) for item in sorted(items, key=lambda item: item.item.index)],
    )
    status = {IngestionStatus.UPLOADING: 202, IngestionStatus.FAILED: 422}.get(state, 201)
    return JSONResponse(body.model_dump(exclude={"status_url"}), status, headers={"Location": status_path(request_id)})


async def _file(blobs: Blobs, status: ItemStatus) -> FrameInfo:
    item = status.item
    if status.code is not None or item.digest is None:
        error = FileError(code=status.code or ProblemCode.INVALID, detail=status.reason or "")
        return FrameInfo(filename=item.filename, status=IngestionStatus.FAILED, size_bytes=item.size_bytes, error=error)
    # Small bodies are stored in packs, whose address would expose other bodies.
    is_own_object = item.kind in {Kind.FRAME, Kind.CLIP}
    key = blob_key(item.digest) if is_own_object else None
    link = await blobs.presign(key, LINK_S) if key is not None and status.ingested else None
    return FrameInfo(
        filename=item.filename,
        status=IngestionStatus.INGESTED if status.ingested else IngestionStatus.ACCEPTED,
        frame_id=str(record_id(Kind(item.kind or Kind.FRAME), item.digest)),
        width=item.width,
        height=item.height,
        size_bytes=item.size_bytes,
        media_type=item.media_type,
        exif=orjson.loads(item.exif or "{}"),
        sha256=item.digest,
        storage_key=key,
        presigned_url=link or f"/api/v1/blobs/{item.digest}",
    )


def _message(item: RequestItem, since_s: float) -> MessageRef:
    assert item.topic is not None and item.partition is not None and item.offset is not None  # noqa: PT018
    record = record_id(Kind(item.kind or Kind.FRAME), item.digest or "")
    return MessageRef(item.topic, item.partition, item.offset, record, since_s - 60)
