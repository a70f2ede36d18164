"""`/api/v1/cameras`: configurations of cameras, with optimistic concurrency control."""

from typing import Annotated
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from headrace.gateway.auth.guard import Device, Operator, require_source_access
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import CamerasDep, SettingsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.cameras import (
    CameraPage,
    CameraShown,
    Configuration,
    NewCamera,
    body_of,
    camera_fields,
    read_configuration,
    read_new,
    stored_json,
)
from headrace.gateway.queries.conditional import VARY, if_match_versions, is_not_modified
from headrace.gateway.queries.known_parameters import KNOWN_PARAMETERS, OPERATOR_PARAMETERS
from headrace.gateway.queries.parameters import (
    PAGE_ITEMS,
    Cursor,
    Limit,
    Name,
    SiteFilter,
    decode_cursor,
    encode_cursor,
    invalid_cursor,
)
from headrace.gateway.queries.scopes import scopes_of
from headrace.gateway.uploads.publish import UploadSource, resolve_source
from headrace.runtime.settings import Settings
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.store.requests.cameras import CameraRow, Cameras

router = APIRouter(prefix="/api/v1/cameras", tags=["cameras"])

CameraId = Annotated[Name, Path(max_length=NAME_BYTES_MAX)]
SiteOf = Annotated[
    Name | None,
    Query(max_length=NAME_BYTES_MAX, description="The site; by default the principal's own, or the gateway's."),
]


@router.post(
    "",
    status_code=201,
    response_model=CameraShown,
    responses=problem_responses(409),
    openapi_extra=body_of(NewCamera),
    dependencies=[OPERATOR_PARAMETERS],
)
async def add_camera(request: Request, cameras: CamerasDep, settings: SettingsDep, principal: Operator) -> Response:
    """Create a camera's configuration."""
    new = await read_new(request)
    source = _writable_source(request, principal, (new.site, new.camera_id), settings)
    added = await cameras.add(source.site, source.source_id, *stored_json(new))
    if added is None:
        raise Problem(409, ProblemCode.CONFLICT, "the camera has a configuration", hint="change it with PUT")
    where = f"/api/v1/cameras/{quote(added.camera_id, safe='')}?site={quote(added.site, safe='')}"
    return _answer(added, 201, {"Location": where})


@router.get("", response_model=CameraPage, responses=problem_responses(), dependencies=[KNOWN_PARAMETERS])
async def list_cameras(
    cameras: CamerasDep, principal: Device, site: SiteFilter = None, limit: Limit = PAGE_ITEMS, cursor: Cursor = None
) -> Response:
    """List the cameras within the principal's scope, by site and id."""
    after = ("", "") if cursor is None else _after(decode_cursor(cursor))
    rows = await cameras.page(after, limit, site=site, scopes=scopes_of(principal))
    following = (
        encode_cursor(orjson.dumps([rows[-1].site, rows[-1].camera_id]).decode()) if len(rows) == limit else None
    )
    # A change must be visible at once, so the list is not cached.
    return JSONResponse({"cameras": [camera_fields(row) for row in rows], "cursor": following}, headers=_REVALIDATE)


@router.get(
    "/{camera_id:path}",
    response_model=CameraShown,
    responses={304: {"description": "Not modified."}, **problem_responses(404)},
    dependencies=[KNOWN_PARAMETERS],
)
async def read_camera(
    request: Request,
    cameras: CamerasDep,
    settings: SettingsDep,
    principal: Device,
    camera_id: CameraId,
    site: SiteOf = None,
) -> Response:
    """Return a camera's configuration; its ETag is its version."""
    source = _source(principal, (site, camera_id), settings)
    is_visible = principal.can_access(source.site, source.source_id)
    camera = await cameras.get(source.site, source.source_id) if is_visible else None
    if camera is None:
        raise _missing()
    if is_not_modified(request, _tag(camera)):
        return Response(status_code=304, headers={"ETag": _tag(camera), **_REVALIDATE})
    return _answer(camera, 200)


@router.put(
    "/{camera_id:path}",
    response_model=CameraShown,
    responses=problem_responses(404, 412),
    openapi_extra=body_of(Configuration),
    dependencies=[OPERATOR_PARAMETERS],
)
async def change_camera(
    request: Request,
    cameras: CamerasDep,
    settings: SettingsDep,
    principal: Operator,
    camera_id: CameraId,
    site: SiteOf = None,
) -> Response:
    """Replace a camera's configuration; `If-Match` names the version to replace."""
    configuration = await read_configuration(request)
    source = _writable_source(request, principal, (site, camera_id), settings)
    changed = await cameras.replace(
        source.site, source.source_id, *stored_json(configuration), versions=if_match_versions(request)
    )
    if changed is None:
        raise await _precondition_problem(cameras, source)
    return _answer(changed, 200)


@router.delete(
    "/{camera_id:path}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 412),
    dependencies=[OPERATOR_PARAMETERS],
)
async def delete_camera(
    request: Request,
    cameras: CamerasDep,
    settings: SettingsDep,
    principal: Operator,
    camera_id: CameraId,
    site: SiteOf = None,
) -> Response:
    """Delete a camera's configuration; `If-Match` names the version to delete."""
    source = _writable_source(request, principal, (site, camera_id), settings)
    if not await cameras.delete(source.site, source.source_id, versions=if_match_versions(request)):
        raise await _precondition_problem(cameras, source)
    return Response(status_code=204)


_REVALIDATE = {"Cache-Control": "private, no-cache", "Vary": VARY}


def _source(principal: Principal, camera: tuple[str | None, str], settings: Settings) -> UploadSource:
    """Return the source of a camera, by its site and id; without a site, at the principal's own or the gateway's."""
    site, camera_id = camera
    return resolve_source(principal, site, camera_id, UploadSource(settings.gateway_site, camera_id))


def _writable_source(
    request: Request, principal: Principal, camera: tuple[str | None, str], settings: Settings
) -> UploadSource:
    """Return the source of a camera that the principal may configure.

    Raises:
        Problem: the camera is out of its scope (403).
    """
    source = _source(principal, camera, settings)
    require_source_access(request, principal, source.site, source.source_id)
    return source


async def _precondition_problem(cameras: Cameras, source: UploadSource) -> Problem:
    camera = await cameras.get(source.site, source.source_id)
    if camera is None:
        return _missing()
    return Problem(
        412,
        ProblemCode.PRECONDITION_FAILED,
        f"the configuration has changed: its version is {camera.version}",
        hint="read it again, and repeat the change",
        headers={"ETag": _tag(camera)},
    )


def _missing() -> Problem:
    return Problem(404, ProblemCode.NOT_FOUND, "camera not found")


def _after(text: str) -> tuple[str, str]:
    try:
        match orjson.loads(text):
            case [str(site), str(camera_id)] if "\x00" not in site + camera_id:
                return site, camera_id
    except orjson.JSONDecodeError:
        pass
    raise invalid_cursor()


def _tag(camera: CameraRow) -> str:
    return f'"{camera.version}"'


def _answer(camera: CameraRow, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(camera_fields(camera), status, {"ETag": _tag(camera), **_REVALIDATE, **(headers or {})})
