"""LDOs and scans, in the API of the LDO service: `POST /ingest/ldo`, `GET /ingest/list`, `POST /cid`."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, require_source_access
from headrace.gateway.deps import AccessDep, LdosDep, PipelineDep, SettingsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.scopes import scopes_of
from headrace.gateway.uploads.idempotency import IdempotentRequest, idempotent_request, request_fingerprint
from headrace.gateway.uploads.metadata import LdoMetadata, parse_metadata_now
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, request_traceparent, resolve_source
from headrace.gateway.uploads.results import status_of, status_path
from headrace.gateway.uploads.upload_form import JSON, URLENCODED, FormFile, ReceivedForm, form_body, received_form
from headrace.producers.source import fields_of
from headrace.schemas.events import Cid, Ldo
from headrace.schemas.validate import validate
from headrace.store.catalog.ldos import ListedLdo
from headrace.store.catalog.views import public_ldo_id
from headrace.store.requests.ingest_status import IngestStatus

router = APIRouter(tags=["LDOs"])

SKIP_MAX = 1_000_000
LIMIT_MAX = 1000


class LdoAnswer(BaseModel):
    """The result for an LDO; `size_bytes` is the size of its stored JSON and its video, as in the list."""

    id: str = Field(examples=["ldo_abc123abc123_1705420800"])
    status: str = Field(description="`ingested`, or `accepted` while it is not durable yet.", examples=["ingested"])
    size_bytes: int = Field(examples=[2457600])


class CidAnswer(BaseModel):
    """The result for a scan."""

    id: str = Field(description="The id of the record.")
    status: str = Field(examples=["ingested"])


class LdoListed(BaseModel):
    """An LDO of the list; `created_at` is UTC."""

    id: str = Field(examples=["ldo_abc123abc123_1705420800"])
    status: str = Field(examples=["ingested"])
    filename: str | None = Field(examples=["clip.mp4"])
    created_at: str = Field(examples=["2025-01-16T10:30:00"])
    size_bytes: int = Field(examples=[2457600])


class LdoList(BaseModel):
    """A page of the list, and its total length."""

    total: int = Field(examples=[156])
    ldos: list[LdoListed]


@dataclass(frozen=True, slots=True)
class _EventUpload:
    """A request that publishes an event, and the video that belongs to it where there is one."""

    request: Request
    access: AccessDep
    pipeline: PipelineDep
    settings: SettingsDep
    principal: Device

    def source(self, site: str | None, source_id: str | None) -> UploadSource:
        """Return the source that the request names, if the principal may publish for it.

        Raises:
            RejectedError: a name is invalid.
            Problem: a name holds a login (422), or the source is out of scope (403).
        """
        default = UploadSource(self.settings.gateway_site, "ldo-client")
        source = resolve_source(self.principal, site, source_id, default)
        require_source_access(self.request, self.principal, source.site, source.source_id)
        return source

    async def publish(
        self, event: Cid | Ldo, source: UploadSource, form: ReceivedForm, video: FormFile | None
    ) -> tuple[list[PublishedItem], int]:
        """Publish an event, and its video before it: where either is rejected, neither is ingested.

        Returns also the bytes that are stored of them.
        """
        traceparent = request_traceparent(self.request)
        valid = await asyncio.to_thread(validate, event, time.time_ns() // 1000)
        if video is None:
            return [await self.pipeline.publisher.publish(event, traceparent)], valid.size_bytes
        about = event.code if isinstance(event, Cid) else event.ldo_id
        clip = await form.publish(video, source, index=1, about=about)
        published = [await self.pipeline.publisher.publish(event, traceparent), clip]
        return published, valid.size_bytes + video.received.size_bytes

    async def answer(
        self,
        answer: LdoAnswer | CidAnswer,
        source: UploadSource,
        published: Sequence[PublishedItem],
        first: IdempotentRequest,
    ) -> JSONResponse:
        """Record the request, wait for its events, and store the answer under the idempotency key."""
        request_id = uuid4()
        await first.keep_pending(_answer(answer, request_id))
        statuses = await self.pipeline.results.record(request_id, self.principal.actor, source, published)
        answer.status = _status(statuses)
        response = _answer(answer, request_id)
        await first.keep(response)
        return response


EventUpload = Annotated[_EventUpload, Depends()]


@router.post(
    "/ingest/ldo",
    response_model=LdoAnswer,
    responses={202: {"model": LdoAnswer, "description": "Accepted, and not durable yet."}, **problem_responses(409)},
    openapi_extra=form_body({"metadata": "string", "video": "binary"}, ["metadata"], URLENCODED),
)
async def ingest_ldo(request: Request, upload: EventUpload) -> JSONResponse:
    """Ingest a labelled data object, and optionally its video."""
    async with (
        idempotent_request(request, upload.access, upload.principal) as first,
        received_form(request, upload.principal, upload.pipeline, files_max=1) as form,
    ):
        metadata = await _metadata(form, upload)
        video = form.file_or_none()
        source = upload.source(metadata.site, metadata.source_id)
        fingerprint = request_fingerprint(request, [form.fields, video.received.sha256 if video else None])
        if (replayed := first.replay(fingerprint)) is not None:
            return replayed
        event = Ldo(
            **fields_of(upload.pipeline.publisher.origin(source, metadata.captured_at_us)),
            ldo_id=metadata.ldo_id,
            body=metadata.body,
            clip_sha256=video.received.sha256 if video else None,
        )
        published, size_bytes = await upload.publish(event, source, form, video)
        answer = LdoAnswer(
            id=public_ldo_id(published[0].item.digest or "", event.captured_at_us),
            status="accepted",
            size_bytes=size_bytes,
        )
        return await upload.answer(answer, source, published, first)


@router.get("/ingest/list", responses=problem_responses())
async def list_ldos(
    ldos: LdosDep,
    principal: Device,
    skip: Annotated[int, Query(ge=0, le=SKIP_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 100,
) -> LdoList:
    """List LDOs, newest first. New LDOs shift the pages; `/api/v1/records` has stable pages."""
    scopes = scopes_of(principal)
    total, page = await ldos.count(scopes), await ldos.page(skip, limit, scopes)
    return LdoList(total=total, ldos=[_listed(ldo) for ldo in page])


@router.post(
    "/cid",
    operation_id="take_cid_cid_post",  # generated clients have it as the name of their method
    response_model=CidAnswer,
    responses={202: {"model": CidAnswer, "description": "Accepted, and not durable yet."}, **problem_responses(409)},
    openapi_extra=form_body(
        {"cid": "string", "device_id": "string", "site": "string", "video": "binary"},
        ["cid", "device_id"],
        URLENCODED,
        JSON,
    ),
)
async def ingest_cid(request: Request, upload: EventUpload) -> JSONResponse:
    """Ingest a scan of a component identifier, and optionally its video."""
    async with (
        idempotent_request(request, upload.access, upload.principal) as first,
        received_form(request, upload.principal, upload.pipeline, files_max=1, takes_json=True) as form,
    ):
        video = form.file_or_none()
        fingerprint = request_fingerprint(request, [form.fields, video.received.sha256 if video else None])
        if (replayed := first.replay(fingerprint)) is not None:
            return replayed
        code, device_id = form.fields.get("cid"), form.fields.get("device_id")
        if not code or not device_id:
            raise Problem(422, ProblemCode.INVALID, "the fields cid and device_id are required")
        source = upload.source(form.fields.get("site"), device_id)
        event = Cid(**fields_of(upload.pipeline.publisher.origin(source)), code=code)
        published, _ = await upload.publish(event, source, form, video)
        answer = CidAnswer(id=str(published[0].message.record_id), status="accepted")
        return await upload.answer(answer, source, published, first)


def _status(statuses: Sequence[IngestStatus]) -> str:
    return "ingested" if all(status_of(status) == "ingested" for status in statuses) else "accepted"


async def _metadata(form: ReceivedForm, upload: _EventUpload) -> LdoMetadata:
    text = form.fields.get("metadata")
    if text is None:
        raise Problem(422, ProblemCode.INVALID, "the field metadata is required")
    return await upload.pipeline.parse_metadata(parse_metadata_now, text, caller=upload.principal.actor)


def _answer(answer: BaseModel, request_id: object) -> JSONResponse:
    body = answer.model_dump()
    status = 200 if body["status"] == "ingested" else 202
    return JSONResponse(body, status, headers={"Location": f"{status_path(request_id)}"})


def _listed(ldo: ListedLdo) -> LdoListed:
    created_at = datetime.fromtimestamp(ldo.captured_at_us // 1_000_000, UTC).replace(tzinfo=None).isoformat()
    return LdoListed(
        id=ldo.public_id,
        status="ingested",
        filename=ldo.clip_filename,
        created_at=created_at,
        size_bytes=ldo.size_bytes + ldo.clip_size_bytes,
    )
