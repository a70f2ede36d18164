"""The camera ingestion service's upload and status calls."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, require_reach
from headrace.gateway.problems import Problem, ProblemCode, documented, of_rejected
from headrace.gateway.services import Here, Services
from headrace.gateway.uploads.answers import status_path
from headrace.gateway.uploads.idempotency import fingerprint_of, once
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, settle, shown_name, source_of
from headrace.gateway.uploads.states import ItemStatus, state_of
from headrace.gateway.uploads.upload_form import File, ReceivedForm, form_body, received_form
from headrace.schemas.digest import blob_key, record_id
from headrace.schemas.events import Kind
from headrace.schemas.headers import rfc3339
from headrace.schemas.reject import RejectedError
from headrace.store.requests.ingest_status import IngestStatus, MessageRef
from headrace.store.requests.requests import RequestItem

router = APIRouter(prefix="/api/v1/ingest", tags=["cameras"])

FILES_MAX = 64
LINK_S = 3600  # how long a presigned address is good


class FileError(BaseModel):
    """Why a file was not taken."""

    code: str = Field(examples=["not_an_image"])
    detail: str


class UploadedFile(BaseModel):
    """One file: what it is and where it lies, or why it was not taken."""

    filename: str | None
    status: str = Field(description="`ingested`, `accepted` while it is not durable yet, or `failed`.")
    frame_id: str | None = Field(None, description="The record's id.")
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    media_type: str | None = None
    exif: dict[str, Any] | None = None
    sha256: str | None = None
    storage_key: str | None = None
    presigned_url: str | None = Field(None, description="Where the bytes can be read, for an hour.")
    error: FileError | None = None


class Uploaded(BaseModel):
    """What became of an upload, file by file."""

    request_id: str
    status: str = Field(description="`ingested`, `accepted`, or `partial` where files failed.")
    camera_id: str
    files: list[UploadedFile]


class RequestStatus(BaseModel):
    """A request as it stands."""

    request_id: str
    kind: str = Field(examples=["upload"])
    status: str = Field(
        description="Of an upload: uploading, ingested, partial, failed. Of a capture: requested, connecting, "
        "recording, uploading, ingested, failed."
    )
    reason: str | None
    site: str
    camera_id: str
    created_at: str
    updated_at: str
    evidence: dict[str, Any]
    frames: list[UploadedFile]
    errors: list[FileError]


@router.post(
    "/upload",
    status_code=201,
    response_model=Uploaded,
    responses={202: {"model": Uploaded, "description": "Files are on their way."}, **documented(409)},
    openapi_extra=form_body(
        {"camera_id": "string", "site": "string", "files": "files"}, required=["camera_id", "files"]
    ),
)
async def upload(request: Request, here: Here, caller: Device) -> JSONResponse:
    """Take images and videos of one camera; those that cannot be taken are named beside those that were."""
    async with (
        once(request, here.access, caller) as first,
        received_form(request, here, caller, files_max=FILES_MAX) as form,
    ):
        camera_id = form.fields.get("camera_id")
        if not camera_id:
            raise Problem(422, ProblemCode.INVALID, "the form lacks the field camera_id")
        if not form.files:
            raise Problem(422, ProblemCode.INVALID, "the form holds no file")
        source = source_of(here, caller, form.fields.get("site"), camera_id, "")
        require_reach(request, caller, source.site, source.source_id)
        print_ = fingerprint_of(request, [form.fields, [one.received.sha256 for one in form.files]])
        if (before := first.replay(print_)) is not None:
            return before
        taken, failed = await _take_each(form, source)
        if not taken:
            raise Problem(
                422, failed[0].code or ProblemCode.INVALID, f"no file could be taken; the first: {failed[0].reason}"
            )
        request_id = uuid4()
        outcomes = await settle(here, caller, source, request_id, taken, failed)
        response = await _answer(here, request_id, source, [*zip(taken, outcomes, strict=True)], failed)
        await first.keep(response)
        return response


@router.get("/status/{request_id}", responses=documented(404))
async def status(
    here: Here, caller: Device, request_id: Annotated[UUID, Path(description="As it was answered.")]
) -> JSONResponse:
    """Say how a request stands, with its frames and what went wrong. The answer is never a stored one."""
    found = await here.requests.get(request_id)
    if found is None or not (caller.actor == found.actor or caller.reaches(found.site, found.source_id)):
        raise Problem(404, ProblemCode.NOT_FOUND, "there is no such request, or the key does not reach it")
    items = await here.requests.items(request_id)
    outcomes = await here.landings.outcomes([_place(item, found.created_at_s) for item in items if item.topic])
    shown = _shown(items, outcomes)
    state = found.state if found.kind == "rtsp" else state_of(shown)
    body = RequestStatus(
        request_id=str(request_id),
        kind=found.kind,
        status=state,
        reason=found.reason,
        site=found.site,
        camera_id=found.source_id,
        created_at=rfc3339(int(found.created_at_s * 1e6)),
        updated_at=rfc3339(int(found.updated_at_s * 1e6)),
        evidence=orjson.loads(found.evidence),
        frames=[await _file(here, one) for one in shown if one.code is None],
        errors=[FileError(code=one.code, detail=one.reason or "") for one in shown if one.code is not None],
    )
    return JSONResponse(body.model_dump(), headers={"Cache-Control": "no-store"})


async def _take_each(form: ReceivedForm, source: UploadSource) -> tuple[list[PublishedItem], list[RequestItem]]:
    taken: list[PublishedItem] = []
    failed: list[RequestItem] = []
    for index, file in enumerate(form.files):
        try:
            taken.append(await form.take(file, source, index=index))
        except RejectedError as rejected:
            failed.append(_failed(index, file, of_rejected(rejected)))
        except Problem as problem:
            failed.append(_failed(index, file, problem))
    return taken, failed


def _failed(index: int, file: File, problem: Problem) -> RequestItem:
    name = shown_name(file.part.filename)
    return RequestItem(
        index=index, filename=name, size_bytes=file.received.size_bytes, code=problem.code, reason=problem.detail
    )


async def _answer(
    here: Services,
    request_id: UUID,
    source: UploadSource,
    taken: Sequence[tuple[PublishedItem, IngestStatus]],
    failed: Sequence[RequestItem],
) -> JSONResponse:
    shown = [ItemStatus.of(one.item, outcome) for one, outcome in taken] + [
        ItemStatus.of(item, None) for item in failed
    ]
    shown.sort(key=lambda one: one.item.index)
    state = state_of(shown)
    body = Uploaded(
        request_id=str(request_id),
        status="accepted" if state == "uploading" else state,
        camera_id=source.source_id,
        files=[await _file(here, one) for one in shown],
    )
    status = 202 if state == "uploading" else 201
    return JSONResponse(body.model_dump(), status, headers={"Location": status_path(request_id)})


async def _file(here: Services, one: ItemStatus) -> UploadedFile:
    item = one.item
    if one.code is not None or item.digest is None:
        error = FileError(code=one.code or ProblemCode.INVALID, detail=one.reason or "")
        return UploadedFile(filename=item.filename, status="failed", size_bytes=item.size_bytes, error=error)
    # Small bodies lie in packs, whose address would show others' too.
    alone = item.kind in {Kind.FRAME, Kind.CLIP}
    key = blob_key(item.digest) if alone else None
    link = await here.blobs.presign(key, LINK_S) if key is not None and one.ingested else None
    return UploadedFile(
        filename=item.filename,
        status="ingested" if one.ingested else "accepted",
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


def _place(item: RequestItem, since_s: float) -> MessageRef:
    assert item.topic is not None and item.partition is not None and item.offset is not None  # noqa: PT018
    record = record_id(Kind(item.kind or Kind.FRAME), item.digest or "")
    return MessageRef(item.topic, item.partition, item.offset, record, since_s - 60)


def _shown(items: Sequence[RequestItem], outcomes: Sequence[IngestStatus]) -> list[ItemStatus]:
    known = iter(outcomes)
    return [ItemStatus.of(item, next(known) if item.topic else None) for item in items]
