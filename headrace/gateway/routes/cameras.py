"""How cameras are set up: created, read, changed, deleted; no change gets lost behind another."""

from typing import Annotated
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from headrace.gateway.auth.guard import Device, Operator, require_reach
from headrace.gateway.auth.principal import Principal
from headrace.gateway.problems import Problem, ProblemCode, documented
from headrace.gateway.queries.cameras import (
    CameraPage,
    CameraShown,
    Configuration,
    NewCamera,
    body_of,
    read_configuration,
    read_new,
    shown,
    written,
)
from headrace.gateway.queries.conditional import VARY, has_already, versions_wanted
from headrace.gateway.queries.parameters import (
    PAGE_ITEMS,
    Cursor,
    Limit,
    Name,
    SiteFilter,
    bad_cursor,
    opened_cursor,
    sealed_cursor,
)
from headrace.gateway.queries.scopes import scopes_of
from headrace.gateway.services import Here, Services
from headrace.gateway.uploads.publish import UploadSource, source_of
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.store.requests.cameras import CameraRow

router = APIRouter(prefix="/api/v1/cameras", tags=["cameras"])

CameraId = Annotated[Name, Path(max_length=NAME_BYTES_MAX)]
SiteOf = Annotated[
    Name | None,
    Query(max_length=NAME_BYTES_MAX, description="Where it stands; without one, the caller's own, or the gateway's."),
]


@router.post(
    "", status_code=201, response_model=CameraShown, responses=documented(409), openapi_extra=body_of(NewCamera)
)
async def add_camera(request: Request, here: Here, caller: Operator) -> Response:
    """Keep the configuration of a camera that has none yet."""
    new = await read_new(request)
    source = _written_source(request, here, caller, new.site, new.camera_id)
    added = await here.cameras.add(source.site, source.source_id, *written(new))
    if added is None:
        raise Problem(409, ProblemCode.CONFLICT, "this camera has a configuration", hint="change it with PUT")
    where = f"/api/v1/cameras/{quote(added.camera_id, safe='')}?site={quote(added.site, safe='')}"
    return _answer(added, 201, {"Location": where})


@router.get("", response_model=CameraPage, responses=documented())
async def list_cameras(
    here: Here, caller: Device, site: SiteFilter = None, limit: Limit = PAGE_ITEMS, cursor: Cursor = None
) -> Response:
    """List the cameras that the caller reaches, by site and id."""
    after = ("", "") if cursor is None else _after(opened_cursor(cursor))
    found = await here.cameras.page(after, limit, site=site, scopes=scopes_of(caller))
    following = (
        sealed_cursor(orjson.dumps([found[-1].site, found[-1].camera_id]).decode()) if len(found) == limit else None
    )
    # A configuration that was changed just now has to be seen at once, so a list is not kept.
    return JSONResponse({"cameras": [shown(one) for one in found], "cursor": following}, headers=_ASK_AGAIN)


@router.get(
    "/{camera_id:path}",
    response_model=CameraShown,
    responses={304: {"description": "The caller has this version."}, **documented(404)},
)
async def read_camera(
    request: Request, here: Here, caller: Device, camera_id: CameraId, site: SiteOf = None
) -> Response:
    """Return a camera's configuration; its ETag is its version."""
    source = source_of(here, caller, site, camera_id, camera_id)
    reached = caller.reaches(source.site, source.source_id)
    found = await here.cameras.get(source.site, source.source_id) if reached else None
    if found is None:
        raise _missing()
    if has_already(request, _tag(found)):
        return Response(status_code=304, headers={"ETag": _tag(found), **_ASK_AGAIN})
    return _answer(found, 200)


@router.put(
    "/{camera_id:path}",
    response_model=CameraShown,
    responses=documented(404, 412),
    openapi_extra=body_of(Configuration),
)
async def change_camera(
    request: Request, here: Here, caller: Operator, camera_id: CameraId, site: SiteOf = None
) -> Response:
    """Replace a camera's configuration; with `If-Match`, only the version that the caller has seen."""
    configuration = await read_configuration(request)
    source = _written_source(request, here, caller, site, camera_id)
    changed = await here.cameras.replace(
        source.site, source.source_id, *written(configuration), versions=versions_wanted(request)
    )
    if changed is None:
        raise await _why_not(here, source)
    return _answer(changed, 200)


@router.delete("/{camera_id:path}", status_code=204, response_class=Response, responses=documented(404, 412))
async def delete_camera(
    request: Request, here: Here, caller: Operator, camera_id: CameraId, site: SiteOf = None
) -> Response:
    """Forget a camera's configuration; with `If-Match`, only the version that the caller has seen."""
    source = _written_source(request, here, caller, site, camera_id)
    if not await here.cameras.delete(source.site, source.source_id, versions=versions_wanted(request)):
        raise await _why_not(here, source)
    return Response(status_code=204)


_ASK_AGAIN = {"Cache-Control": "private, no-cache", "Vary": VARY}


def _written_source(
    request: Request, here: Services, caller: Principal, site: str | None, camera_id: str
) -> UploadSource:
    source = source_of(here, caller, site, camera_id, camera_id)
    require_reach(request, caller, source.site, source.source_id)
    return source


async def _why_not(here: Services, source: UploadSource) -> Problem:
    found = await here.cameras.get(source.site, source.source_id)
    if found is None:
        return _missing()
    return Problem(
        412,
        ProblemCode.PRECONDITION_FAILED,
        f"the configuration has changed meanwhile: it is version {found.version} now",
        hint="read it again, and make the change from there",
        headers={"ETag": _tag(found)},
    )


def _missing() -> Problem:
    return Problem(404, ProblemCode.NOT_FOUND, "this camera has no configuration, or the key does not reach it")


def _after(text: str) -> tuple[str, str]:
    try:
        match orjson.loads(text):
            case [str(site), str(camera_id)] if "\x00" not in site + camera_id:
                return site, camera_id
    except orjson.JSONDecodeError:
        pass
    raise bad_cursor()


def _tag(camera: CameraRow) -> str:
    return f'"{camera.version}"'


def _answer(camera: CameraRow, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(shown(camera), status, {"ETag": _tag(camera), **_ASK_AGAIN, **(headers or {})})
