"""`/api/v1/uploads`: resumable uploads by tus 1.0.0, for files that are too large to begin again."""

from uuid import UUID, uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from headrace.gateway.auth.guard import Device, note, require_reach
from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.problems import Problem, ProblemCode, documented
from headrace.gateway.services import Here, Services
from headrace.gateway.tus import protocol
from headrace.gateway.tus.assemble import join
from headrace.gateway.tus.lock import held
from headrace.gateway.tus.parts import beyond_the_end, clear
from headrace.gateway.tus.receive import receive
from headrace.gateway.tus.responses import STATUS, TusRoute, described, outcome_of, progress_of
from headrace.gateway.tus.upload_headers import Declared
from headrace.gateway.uploads.publish import source_of
from headrace.store.requests.uploads import NewUpload, Upload

PATH = "/api/v1/uploads"
router = APIRouter(prefix=PATH, tags=["resumable uploads"], route_class=TusRoute)


@router.options("", status_code=204, response_class=Response, responses=documented())
async def capabilities(_caller: Device) -> Response:
    """Say which parts of the protocol are known here."""
    return Response(status_code=204, headers=protocol.about_us())


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=documented(409, 411, 412, 460),
    openapi_extra=described("Upload-Length", "Upload-Metadata", "Upload-Checksum", body=True),
)
async def create(request: Request, here: Here, caller: Device) -> Response:
    """Begin an upload, with its first bytes or without."""
    headers = request.headers
    protocol.require_version(headers)
    length = protocol.length_of(headers)
    checksum = protocol.checksum_of(headers)
    expected = protocol.body_bytes_of(headers)
    if expected != 0:
        protocol.require_content_type(headers)
    if expected is not None and expected > length:
        raise beyond_the_end(length)
    pairs = protocol.metadata_of(headers)
    source = source_of(here, caller, pairs.get("site"), pairs.get("source_id") or pairs.get("camera_id"), "gateway")
    require_reach(request, caller, source.site, source.source_id)
    said = Declared.of(pairs, headers.get("upload-metadata", "").strip())
    new = NewUpload(
        upload_id=uuid4(),
        actor=caller.actor,
        site=source.site,
        source_id=source.source_id,
        length_bytes=length,
        metadata=said.to_json(),
    )
    expires_at_s = await here.uploads.add(new, here.settings.gateway_upload_expiry_hours)
    answer = {
        "Location": f"{PATH}/{new.upload_id}",
        "Upload-Offset": "0",
        "Upload-Expires": protocol.expires(expires_at_s),
    }
    if expected != 0:
        try:
            answer |= await _append(here, request, caller, new.upload_id, 0, checksum)
        except BaseException:
            # Nobody was told its address, so nobody could go on with it.
            await here.uploads.remove(new.upload_id)
            await clear(here.blobs, new.upload_id)
            raise
    return Response(status_code=201, headers=answer)


@router.head("/{upload_id}", response_class=Response, responses=documented(404, 410, 412), openapi_extra=described())
async def progress(upload_id: str, request: Request, here: Here, caller: Device) -> Response:
    """Say how far an upload has come; all of that is kept, whatever happens to a gateway."""
    protocol.require_version(request.headers)
    upload = await _find(here, request, caller, upload_id)
    if upload.state == "joining" and not upload.is_held:
        async with held(here.uploads, upload.upload_id) as hold:
            if hold is not None and hold.upload.state == "joining":
                await join(here, hold, request)
        upload = await _find(here, request, caller, upload_id)
    headers = {"Cache-Control": "no-store", "Upload-Length": str(upload.length_bytes), **progress_of(upload)}
    if given := Declared.from_json(upload.metadata).given:
        headers["Upload-Metadata"] = given
    if upload.state == "done":
        headers |= await outcome_of(here, upload)
    elif upload.state == "joining":
        headers[STATUS] = "accepted"
    return Response(headers=headers)


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=documented(404, 409, 410, 412, 423, 460),
    openapi_extra=described("Upload-Offset", "Upload-Checksum", body=True),
)
async def append(upload_id: str, request: Request, here: Here, caller: Device) -> Response:
    """Add bytes; the answer to the last ones says what became of the file, as headers."""
    headers = request.headers
    protocol.require_version(headers)
    protocol.require_content_type(headers)
    offset = protocol.offset_of(headers)
    checksum = protocol.checksum_of(headers)
    upload = await _find(here, request, caller, upload_id)
    if upload.state == "done":
        _check_offset(upload, offset)
        if protocol.body_bytes_of(headers) != 0:
            raise beyond_the_end(upload.length_bytes)
        return Response(status_code=204, headers={**progress_of(upload), **await outcome_of(here, upload)})
    return Response(status_code=204, headers=await _append(here, request, caller, upload.upload_id, offset, checksum))


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=documented(404, 409, 410, 412),
    openapi_extra=described(),
)
async def terminate(upload_id: str, request: Request, here: Here, caller: Device) -> Response:
    """End an upload and forget what came of it; a file that was ingested stays."""
    protocol.require_version(request.headers)
    upload = await _find(here, request, caller, upload_id)
    if not await here.uploads.remove(upload.upload_id):
        raise Problem(409, ProblemCode.CONFLICT, "every byte is there, and the file is being ingested now")
    await clear(here.blobs, upload.upload_id)
    return Response(status_code=204)


@router.post("/{upload_id}", include_in_schema=False)
async def overridden(upload_id: str, request: Request, here: Here, caller: Device) -> Response:
    """Do what X-HTTP-Method-Override says, for callers that can only GET and POST."""
    match request.headers.get("x-http-method-override", "").upper():
        case "PATCH":
            return await append(upload_id, request, here, caller)
        case "HEAD":
            return await progress(upload_id, request, here, caller)
        case "DELETE":
            return await terminate(upload_id, request, here, caller)
        case _:
            raise Problem(
                405,
                ProblemCode.METHOD_NOT_ALLOWED,
                "an upload knows HEAD, PATCH and DELETE",
                headers={"Allow": "HEAD, PATCH, DELETE"},
            )


async def _append(
    here: Services,
    request: Request,
    caller: Principal,
    upload_id: UUID,
    offset: int,
    checksum: protocol.Checksum | None,
) -> dict[str, str]:
    async with held(here.uploads, upload_id) as hold:
        if hold is None:
            raise Problem(
                423,
                ProblemCode.LOCKED,
                "another request writes to this upload",
                hint="wait, ask for its offset with HEAD, and go on from there",
                headers={"Retry-After": "1"},
            )
        _check_offset(hold.upload, offset)
        came = await receive(here, request, caller, hold, checksum)
        if came == hold.upload.length_bytes:
            await join(here, hold, request)
    upload = await here.uploads.get(upload_id)
    if upload is None:
        raise Problem(404, ProblemCode.NOT_FOUND, "the upload was ended meanwhile")
    headers = progress_of(upload)
    if upload.state == "done":
        headers |= await outcome_of(here, upload)
    elif upload.state == "joining":  # another gateway has it by now
        headers[STATUS] = "accepted"
    return headers


async def _find(here: Services, request: Request, caller: Principal, text: str) -> Upload:
    """Return an upload that the caller may go on with.

    Raises:
        Problem: there is none (404), it is somebody else's (403), or it was there and is over (410).
    """
    try:
        upload = await here.uploads.get(UUID(text))
    except ValueError:
        upload = None
    if upload is None:
        raise Problem(404, ProblemCode.NOT_FOUND, "there is no such upload; begin a new one")
    require_reach(request, caller, upload.site, upload.source_id)
    if caller.actor != upload.actor and not caller.is_at_least(Role.OPERATOR):
        note(request, ProblemCode.FORBIDDEN, caller)
        raise Problem(403, ProblemCode.FORBIDDEN, "this upload was begun by somebody else")
    if upload.is_over:
        raise Problem(410, ProblemCode.GONE, "the upload was not finished in time; begin a new one")
    if upload.state == "failed":
        raise Problem(410, ProblemCode.GONE, f"the file was refused ({upload.code}): {upload.reason}")
    return upload


def _check_offset(upload: Upload, offset: int) -> None:
    if offset != upload.offset_bytes:
        raise Problem(
            409,
            ProblemCode.CONFLICT,
            f"the upload stands at {upload.offset_bytes}, not at {offset}",
            headers={"Upload-Offset": str(upload.offset_bytes)},
        )
