"""`POST /api/v1/ingest/rtsp`: request the capture of a camera's stream, as the camera ingestion service does."""

from collections.abc import Sequence
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from headrace.gateway.auth.guard import Capturer, Operator, audit_refusal, require_source_access
from headrace.gateway.auth.principal import Principal
from headrace.gateway.capture.camera_url import (
    URL_CHARACTERS_MAX,
    CameraUrl,
    CameraUrlError,
    CredentialCipher,
    parse_camera_url,
)
from headrace.gateway.capture.capture_request import (
    CLIP_S_MAX,
    DURATION_S_MAX,
    DURATION_S_MIN,
    FPS_MAX,
    FPS_MIN,
    FRAME_COUNT_MAX,
    CaptureMode,
    CapturePlan,
    CaptureProgress,
    CaptureState,
    plan_for,
    standing_plan,
)
from headrace.gateway.capture.standing import OPEN_STATES, remove
from headrace.gateway.deps import AccessDep, CaptureRequestPublisherDep, IngestRequestsDep, SettingsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.known_parameters import OPERATOR_PARAMETERS
from headrace.gateway.queries.parameters import Name, SiteFilter
from headrace.gateway.uploads.idempotency import idempotent_request, request_fingerprint
from headrace.gateway.uploads.publish import UploadSource, resolve_source
from headrace.gateway.uploads.results import IngestionResponse, IngestionStatus, status_path
from headrace.runtime.addresses import (
    AddressNotAllowedError,
    Network,
    UnresolvedHostError,
    networks_of,
    resolve,
)
from headrace.runtime.settings import Settings
from headrace.schemas.headers import rfc3339
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.store.requests.ingest_requests import IngestRequest, NewRequest

router = APIRouter(tags=["camera service"])

Fps = Annotated[float, Field(ge=FPS_MIN, le=FPS_MAX, strict=True, allow_inf_nan=False)]
DurationS = Annotated[float, Field(ge=DURATION_S_MIN, le=DURATION_S_MAX, strict=True, allow_inf_nan=False)]
FrameCount = Annotated[int, Field(ge=1, le=FRAME_COUNT_MAX, strict=True)]


class RTSPIngestionRequest(BaseModel):
    """A camera's stream, and what to capture; unknown fields are passed over."""

    model_config = ConfigDict(extra="ignore")

    rtsp_url: SecretStr = Field(
        description=f"rtsp:// or rtsps://, with the login if the camera requires one; at most {URL_CHARACTERS_MAX} "
        "characters. The login is encrypted.",
        examples=["rtsp://user:password@camera.example:554/stream1"],
    )
    camera_id: str = Field(min_length=1, description="The source of the frames.", examples=["camera-1"])
    capture_mode: CaptureMode
    fps: Fps | None = Field(None, description="Frames per second; by default 5 in a burst, 10 in a clip, otherwise 1.")
    duration_s: DurationS | None = Field(
        None, description=f"Seconds; by default 60 if continuous, 5 for a clip; a clip has at most {CLIP_S_MAX:.0f}."
    )
    frame_count: FrameCount | None = Field(None, description="Frames of a burst; by default 10.")
    site: str | None = Field(None, description="The camera's site; by default that of the key.")
    standing: bool = Field(
        False, description="Capture until the camera is removed, also across restarts; only if continuous."
    )


@router.post("/api/v1/ingest/rtsp", status_code=202, response_model=IngestionResponse, responses=problem_responses(409))
async def capture(
    request: Request,
    body: RTSPIngestionRequest,
    requests: IngestRequestsDep,
    request_publisher: CaptureRequestPublisherDep,
    access: AccessDep,
    settings: SettingsDep,
    principal: Capturer,
) -> JSONResponse:
    """Request the capture of a camera's stream; the status URL reports its progress."""
    source = resolve_source(principal, body.site, body.camera_id, UploadSource(settings.gateway_site, "gateway"))
    require_source_access(request, principal, source.site, source.source_id)
    url = _parse_url(body.rtsp_url.get_secret_value())
    plan = _plan_for(body, url)
    cipher = _cipher_for(settings, url)
    async with idempotent_request(request, access, principal) as first:
        fingerprint = request_fingerprint(
            request, [source.site, source.source_id, plan.as_json(), _url_fingerprint(cipher, body)]
        )
        if (before := first.replay(fingerprint)) is not None:
            return before
        if plan.standing and await requests.standing(OPEN_STATES, site=source.site, source_id=source.source_id):
            raise Problem(
                409, ProblemCode.CONFLICT, "the camera is captured already", hint="remove its standing capture first"
            )
        networks = networks_of(settings.gateway_camera_networks, source.site)
        await _check_address(request, networks, principal, url)
        request_id = uuid4()
        stored = NewRequest(
            request_id=request_id,
            kind="rtsp",
            actor=principal.actor,
            site=source.site,
            source_id=source.source_id,
            state=CaptureState.REQUESTED,
            asked=plan.as_json(),
            sealed=cipher.encrypt(request_id, url) if cipher is not None and url.has_secrets else None,
        )
        status_url = status_path(request_id)
        answer = IngestionResponse(request_id=str(request_id), status=IngestionStatus.REQUESTED, status_url=status_url)
        response = JSONResponse(answer.model_dump(exclude_none=True), 202, headers={"Location": status_url})
        await requests.add(stored)
        await first.keep_pending(response)
        # If Kafka is unavailable, a worker with free capacity finds the stored request later.
        await request_publisher.publish(stored)
        return response


class StandingCapture(BaseModel):
    """A camera that is captured until it is removed; the login is not in the URL."""

    site: str
    camera_id: str
    url: str = Field(examples=["rtsp://camera.example:554/stream1"])
    fps: float
    state: str = Field(description="requested, connecting, recording or uploading.", examples=["recording"])
    last_error: str | None = Field(description="Why the stream was lost last.")
    frames: int = Field(description="Frames since this part of the capture began; each has an hour at most.")
    since: str
    status_url: str


class StandingCaptures(BaseModel):
    """The standing captures, by site and camera."""

    captures: list[StandingCapture]


@router.get(
    "/api/v1/captures",
    response_model=StandingCaptures,
    responses=problem_responses(),
    dependencies=[OPERATOR_PARAMETERS],
)
async def list_captures(requests: IngestRequestsDep, principal: Operator, site: SiteFilter = None) -> JSONResponse:
    """List the cameras that are captured until they are removed, within the operator's scope."""
    rows = await requests.standing(OPEN_STATES, site=site)
    shown = [_shown(row) for row in rows if principal.can_access(row.site, row.source_id)]
    return JSONResponse(
        {"captures": [capture.model_dump() for capture in shown]}, headers={"Cache-Control": "no-store"}
    )


@router.delete(
    "/api/v1/captures/{camera_id:path}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404),
    dependencies=[OPERATOR_PARAMETERS],
)
async def remove_capture(
    request: Request,
    requests: IngestRequestsDep,
    settings: SettingsDep,
    principal: Operator,
    camera_id: Annotated[Name, Path(max_length=NAME_BYTES_MAX)],
    site: SiteFilter = None,
) -> Response:
    """End the standing capture of a camera; what was captured stays."""
    source = resolve_source(principal, site, camera_id, UploadSource(settings.gateway_site, camera_id))
    require_source_access(request, principal, source.site, source.source_id)
    rows = await requests.standing(OPEN_STATES, site=source.site, source_id=source.source_id)
    if not [row for row in rows if await remove(requests, row.request_id)]:
        raise Problem(404, ProblemCode.NOT_FOUND, "the camera has no standing capture")
    return Response(status_code=204)


def _shown(row: IngestRequest) -> StandingCapture:
    plan, progress = CapturePlan.from_json(row.asked), CaptureProgress.from_json(row.evidence)
    return StandingCapture(
        site=row.site,
        camera_id=row.source_id,
        url=plan.url,
        fps=plan.fps,
        state=row.state,
        last_error=progress.last_error,
        frames=progress.frames_published,
        since=rfc3339(round(row.created_at_s * 1_000_000)),
        status_url=status_path(row.request_id),
    )


def _parse_url(text: str) -> CameraUrl:
    try:
        return parse_camera_url(text)
    except CameraUrlError as refused:
        raise Problem(422, ProblemCode.URL_REFUSED, str(refused)) from None


def _plan_for(body: RTSPIngestionRequest, url: CameraUrl) -> CapturePlan:
    mode, duration_s = body.capture_mode, body.duration_s
    if body.standing:
        if mode is not CaptureMode.CONTINUOUS:
            raise Problem(422, ProblemCode.MODE_UNAVAILABLE, "a standing capture has the mode `continuous`")
        return standing_plan(url.redacted, body.fps)
    if mode is CaptureMode.CLIP and (duration_s or 0) > CLIP_S_MAX:
        raise Problem(
            422,
            ProblemCode.MODE_UNAVAILABLE,
            f"a clip lasts at most {CLIP_S_MAX:.0f} s",
            hint="use `continuous`, which captures frames for up to an hour",
        )
    return plan_for(url.redacted, mode, fps=body.fps, duration_s=duration_s, frame_count=body.frame_count)


def _cipher_for(settings: Settings, url: CameraUrl) -> CredentialCipher | None:
    secret = settings.gateway_seal_secret.get_secret_value()
    if not secret and url.has_secrets:
        raise Problem(
            503,
            ProblemCode.UNAVAILABLE,
            "this gateway has no secret to encrypt a camera's login",
            hint="set HEADRACE_GATEWAY_SEAL_SECRET for the gateways and the capture workers",
            headers={"Retry-After": "60"},
        )
    return CredentialCipher(secret) if secret else None


def _url_fingerprint(cipher: CredentialCipher | None, body: RTSPIngestionRequest) -> str:
    """Return what distinguishes the URL in an idempotency row, where a plain digest could be guessed."""
    return "" if cipher is None else cipher.fingerprint(body.rtsp_url.get_secret_value())


async def _check_address(request: Request, networks: Sequence[Network], principal: Principal, url: CameraUrl) -> None:
    try:
        await resolve(url.host, url.port, networks)
    except UnresolvedHostError:
        raise Problem(422, ProblemCode.ADDRESS_REFUSED, "the camera's host name does not resolve") from None
    except AddressNotAllowedError:
        audit_refusal(request, ProblemCode.ADDRESS_REFUSED, principal)
        raise Problem(
            422,
            ProblemCode.ADDRESS_REFUSED,
            "the camera's address is not public and not in a network that the operator listed for its site",
            hint="list the networks of the site's cameras in HEADRACE_GATEWAY_CAMERA_NETWORKS",
        ) from None
