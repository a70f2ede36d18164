"""The LDO service's calls: `POST /ingest/ldo`, `GET /ingest/list`, `POST /cid`."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace.gateway.auth.guard import Device, require_reach
from headrace.gateway.auth.principal import Principal
from headrace.gateway.problems import Problem, ProblemCode, documented
from headrace.gateway.services import Here, Services
from headrace.gateway.uploads.answers import status_of, status_path
from headrace.gateway.uploads.idempotency import IdempotentRequest, fingerprint_of, once
from headrace.gateway.uploads.metadata import Metadata, parse_metadata
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, origin_of, settle, source_of, take_event
from headrace.gateway.uploads.small_form import small_form
from headrace.gateway.uploads.upload_form import File, ReceivedForm, form_body, received_form
from headrace.producers.checks import check_event
from headrace.producers.source import fields_of
from headrace.schemas.events import Cid, Ldo
from headrace.store.catalog.ldos import ListedLdo
from headrace.store.catalog.views import public_ldo_id
from headrace.store.requests.ingest_status import IngestStatus

router = APIRouter(tags=["LDOs"])

SKIP_MAX = 1_000_000
LIMIT_MAX = 1000


class LdoAnswer(BaseModel):
    """What became of an LDO; `size_bytes` counts what it says and its video."""

    id: str = Field(examples=["ldo_abc123abc123_1705420800"])
    status: str = Field(description="`ingested`, or `accepted` while it is not durable yet.", examples=["ingested"])
    size_bytes: int = Field(examples=[2457600])


class CidAnswer(BaseModel):
    """What became of a scan."""

    id: str = Field(description="The record's id.")
    status: str = Field(examples=["ingested"])


class LdoListed(BaseModel):
    """One LDO of the list; `created_at` is UTC."""

    id: str = Field(examples=["ldo_abc123abc123_1705420800"])
    status: str = Field(examples=["ingested"])
    filename: str | None = Field(examples=["clip.mp4"])
    created_at: str = Field(examples=["2025-01-16T10:30:00"])
    size_bytes: int = Field(examples=[2457600])


class LdoList(BaseModel):
    """A part of the list, and how long it is in all."""

    total: int = Field(examples=[156])
    ldos: list[LdoListed]


@router.post(
    "/ingest/ldo",
    response_model=LdoAnswer,
    responses={202: {"model": LdoAnswer, "description": "It is on its way."}, **documented(409)},
    openapi_extra=form_body({"metadata": "string", "video": "binary"}, required=["metadata"]),
)
async def ingest_ldo(request: Request, here: Here, caller: Device) -> JSONResponse:
    """Take a labelled data object, and the video that belongs to it where there is one."""
    async with once(request, here.access, caller) as first, received_form(request, here, caller, files_max=1) as form:
        said = _metadata(form)
        video = form.file_or_none()
        source = source_of(here, caller, said.site, said.source_id, "ldo-client")
        require_reach(request, caller, source.site, source.source_id)
        print_ = fingerprint_of(request, [form.fields, video.received.sha256 if video else None])
        if (before := first.replay(print_)) is not None:
            return before
        taken, event = await _take(request, here, form, video, source, said)
        request_id = uuid4()
        answer = LdoAnswer(
            id=public_ldo_id(taken[0].item.digest or "", event.captured_at_us),
            status="accepted",
            size_bytes=len(form.fields["metadata"].encode()) + (video.received.size_bytes if video else 0),
        )
        await first.under_way(_answer(answer, request_id))
        answer.status = _status(await settle(here, caller, source, request_id, taken))
        response = _answer(answer, request_id)
        await first.keep(response)
        return response


@router.get("/ingest/list", responses=documented())
async def list_ldos(
    here: Here,
    caller: Device,
    skip: Annotated[int, Query(ge=0, le=SKIP_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 100,
) -> LdoList:
    """List LDOs, newest first. Pages by number shift while new ones come; `/api/v1/records` has pages that do not."""
    scopes = None if caller.reaches_everything else caller.sources
    total, found = await here.ldos.count(scopes), await here.ldos.page(skip, limit, scopes)
    return LdoList(total=total, ldos=[_listed(one) for one in found])


@router.post(
    "/cid",
    response_model=CidAnswer,
    responses={202: {"model": CidAnswer, "description": "It is on its way."}, **documented(409)},
    openapi_extra=form_body(
        {"cid": "string", "device_id": "string", "site": "string", "video": "binary"}, required=["cid", "device_id"]
    ),
)
async def take_cid(request: Request, here: Here, caller: Device) -> JSONResponse:
    """Take a scan of a component's identifier, and the video that shows it where there is one."""
    async with once(request, here.access, caller) as first:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            fields = await small_form(request)
            print_ = fingerprint_of(request, [fields])
            if (before := first.replay(print_)) is not None:
                return before
            return await _cid(request, here, caller, fields, first)
        async with received_form(request, here, caller, files_max=1) as form:
            video = form.file_or_none()
            print_ = fingerprint_of(request, [form.fields, video.received.sha256 if video else None])
            if (before := first.replay(print_)) is not None:
                return before
            return await _cid(request, here, caller, dict(form.fields), first, form, video)


async def _cid(
    request: Request,
    here: Services,
    caller: Principal,
    fields: dict[str, str],
    first: IdempotentRequest,
    form: ReceivedForm | None = None,
    video: File | None = None,
) -> JSONResponse:
    code, device_id = fields.get("cid"), fields.get("device_id")
    if not code or not device_id:
        raise Problem(422, ProblemCode.INVALID, "a scan needs the fields cid and device_id")
    source = source_of(here, caller, fields.get("site"), device_id, "")
    require_reach(request, caller, source.site, source.source_id)
    event = Cid(**fields_of(origin_of(here, source)), code=code)
    check_event(event)
    # The video first: where it is refused, the scan that it shows is not taken either.
    shown = [await form.take(video, source, index=1, about=code)] if form is not None and video is not None else []
    scan = await take_event(here, request, event)
    taken = [scan, *shown]
    request_id = uuid4()
    answer = CidAnswer(id=str(scan.place.record_id), status="accepted")
    await first.under_way(_answer(answer, request_id))
    answer.status = _status(await settle(here, caller, source, request_id, taken))
    response = _answer(answer, request_id)
    await first.keep(response)
    return response


def _status(outcomes: Sequence[IngestStatus]) -> str:
    return "ingested" if all(status_of(one) == "ingested" for one in outcomes) else "accepted"


def _metadata(form: ReceivedForm) -> Metadata:
    text = form.fields.get("metadata")
    if text is None:
        raise Problem(422, ProblemCode.INVALID, "the form lacks the field metadata")
    return parse_metadata(text, time.time_ns() // 1000)


async def _take(
    request: Request, here: Services, form: ReceivedForm, video: File | None, source: UploadSource, said: Metadata
) -> tuple[list[PublishedItem], Ldo]:
    event = Ldo(
        **fields_of(origin_of(here, source, said.captured_at_us)),
        ldo_id=said.ldo_id,
        body=said.body,
        clip_sha256=video.received.sha256 if video else None,
    )
    if video is None:
        return [await take_event(here, request, event)], event
    # The video first: where it is refused, the LDO that speaks of it is not taken either; nor the other way round.
    check_event(event)
    clip = await form.take(video, source, index=1, about=said.ldo_id)
    return [await take_event(here, request, event), clip], event


def _answer(answer: BaseModel, request_id: object) -> JSONResponse:
    body = answer.model_dump()
    status = 200 if body["status"] == "ingested" else 202
    return JSONResponse(body, status, headers={"Location": f"{status_path(request_id)}"})


def _listed(one: ListedLdo) -> LdoListed:
    created_at = datetime.fromtimestamp(one.captured_at_us // 1_000_000, UTC).replace(tzinfo=None).isoformat()
    return LdoListed(
        id=one.public_id,
        status="ingested",
        filename=one.clip_filename,
        created_at=created_at,
        size_bytes=one.size_bytes + one.clip_size_bytes,
    )
