"""`/api/v1/uploads`: resumable uploads by tus 1.0.0, for large files and unreliable networks."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from headrace.gateway.auth.guard import Device, audit_refusal, require_source_access
from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.deps import PipelineDep, SettingsDep, UploadsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.tus import protocol
from headrace.gateway.tus.assemble import assemble
from headrace.gateway.tus.lock import UploadLock, locked
from headrace.gateway.tus.parts import PatchReceiver, delete_parts, too_long
from headrace.gateway.tus.protocol import DeclaredFile
from headrace.gateway.tus.responses import STATUS, TusRoute, described, progress_of, status_headers
from headrace.gateway.uploads.publish import UploadSource, request_traceparent, resolve_source
from headrace.store.requests.uploads import NewUpload, Upload

PATH = "/api/v1/uploads"
router = APIRouter(prefix=PATH, tags=["resumable uploads"], route_class=TusRoute)


@dataclass(frozen=True, slots=True)
class _ResumableUploads:
    """The resumable uploads that the principal of a request may access."""

    request: Request
    principal: Device
    uploads: UploadsDep
    pipeline: PipelineDep
    settings: SettingsDep

    async def find(self, upload_id: str) -> Upload:
        """Return an upload that may be continued.

        Raises:
            Problem: it does not exist (404), belongs to another principal (403), or has expired or failed (410).
        """
        try:
            upload = await self.uploads.get(UUID(upload_id))
        except ValueError:
            upload = None
        if upload is None:
            raise Problem(404, ProblemCode.NOT_FOUND, "upload not found; begin a new one")
        require_source_access(self.request, self.principal, upload.site, upload.source_id)
        if self.principal.actor != upload.actor and not self.principal.has_role(Role.OPERATOR):
            audit_refusal(self.request, ProblemCode.FORBIDDEN, self.principal)
            raise Problem(403, ProblemCode.FORBIDDEN, "the upload belongs to another principal")
        if upload.is_expired:
            raise Problem(410, ProblemCode.GONE, "the upload has expired; begin a new one")
        if upload.state == "failed":
            raise Problem(410, ProblemCode.GONE, f"the file was rejected ({upload.code}): {upload.reason}")
        return upload

    async def append(self, upload_id: UUID, offset: int, checksum: protocol.Checksum | None) -> dict[str, str]:
        """Append the request's body, and assemble the upload once it is complete; returns the answer's headers."""
        async with locked(self.uploads, upload_id) as lock:
            if lock is None:
                raise Problem(
                    423,
                    ProblemCode.LOCKED,
                    "another request writes to this upload",
                    hint="wait, request its offset with HEAD, and continue from there",
                    headers={"Retry-After": "1"},
                )
            check_offset(lock.upload, offset)
            receiver = PatchReceiver(self.uploads, self.pipeline.receiver)
            end = await receiver.receive(self.request, self.principal, lock, checksum)
            if end == lock.upload.length_bytes:
                await self.assemble(lock)
        upload = await self.uploads.get(upload_id)
        if upload is None:
            raise Problem(404, ProblemCode.NOT_FOUND, "the upload was terminated")
        return {**progress_of(upload), **await self.status(upload)}

    async def assemble(self, lock: UploadLock) -> None:
        """Assemble a complete upload."""
        await assemble(self.uploads, self.pipeline, lock, traceparent=request_traceparent(self.request))

    async def status(self, upload: Upload) -> dict[str, str]:
        """Return the status of an upload's file, as headers; none while bytes are missing."""
        match upload.state:
            case "done":
                return await status_headers(self.pipeline.results, upload, self.settings.gateway_upload_expiry_hours)
            case "joining":  # another gateway assembles it
                return {STATUS: "accepted"}
            case _:
                return {}

    async def delete(self, upload_id: UUID) -> bool:
        """Delete an upload and its parts; returns False while it is being assembled."""
        deleted = await self.uploads.delete(upload_id)
        if deleted:
            await delete_parts(self.pipeline.receiver.blobs, upload_id)
        return deleted


ResumableUploads = Annotated[_ResumableUploads, Depends()]


@router.options("", status_code=204, response_class=Response, responses=problem_responses())
async def capabilities(_principal: Device) -> Response:
    """Return the supported version and extensions of the protocol."""
    return Response(status_code=204, headers=protocol.capabilities_headers())


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=problem_responses(409, 411, 412, 460),
    openapi_extra=described("Upload-Length", "Upload-Metadata", "Upload-Checksum", body=True),
)
async def create(request: Request, resumable: ResumableUploads) -> Response:
    """Create an upload; the request may have its first bytes."""
    headers = request.headers
    protocol.require_version(headers)
    length = protocol.length_of(headers)
    checksum = protocol.checksum_of(headers)
    expected = protocol.body_bytes_of(headers)
    if expected != 0:
        protocol.require_content_type(headers)
    if expected is not None and expected > length:
        raise too_long(length)
    new = _new_upload(request, resumable.principal, length, resumable.settings.gateway_site)
    settings = resumable.settings
    expires_at_s = await resumable.uploads.add(
        new, settings.gateway_upload_expiry_hours, open_max=settings.gateway_uploads_per_caller_max
    )
    if expires_at_s is None:
        raise Problem(
            429,
            ProblemCode.TOO_MANY_REQUESTS,
            f"this key or token has {settings.gateway_uploads_per_caller_max} unfinished uploads",
            hint="finish or terminate one of them",
            headers={"Retry-After": "60"},
        )
    answer = {
        "Location": f"{PATH}/{new.upload_id}",
        "Upload-Offset": "0",
        "Upload-Expires": protocol.expires(expires_at_s),
    }
    if expected != 0:
        try:
            answer |= await resumable.append(new.upload_id, 0, checksum)
        except BaseException:
            # The client does not know the upload's address, so it could not continue it.
            await resumable.uploads.delete(new.upload_id)
            await delete_parts(resumable.pipeline.receiver.blobs, new.upload_id)
            raise
    return Response(status_code=201, headers=answer)


@router.head(
    "/{upload_id}", response_class=Response, responses=problem_responses(404, 410, 412), openapi_extra=described()
)
async def progress(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Return the offset of an upload; the bytes before it are durable."""
    protocol.require_version(request.headers)
    upload = await resumable.find(upload_id)
    if upload.state == "joining" and not upload.is_held:
        async with locked(resumable.uploads, upload.upload_id) as lock:
            if lock is not None and lock.upload.state == "joining":
                await resumable.assemble(lock)
        upload = await resumable.find(upload_id)
    headers = {"Cache-Control": "no-store", "Upload-Length": str(upload.length_bytes), **progress_of(upload)}
    if given := DeclaredFile.from_json(upload.metadata).given:
        headers["Upload-Metadata"] = given
    return Response(headers={**headers, **await resumable.status(upload)})


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 409, 410, 412, 423, 460),
    openapi_extra=described("Upload-Offset", "Upload-Checksum", body=True),
)
async def append(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Append bytes; the answer to the last ones has the status of the file, as headers."""
    headers = request.headers
    protocol.require_version(headers)
    protocol.require_content_type(headers)
    offset = protocol.offset_of(headers)
    checksum = protocol.checksum_of(headers)
    upload = await resumable.find(upload_id)
    if upload.state == "done":
        check_offset(upload, offset)
        if protocol.body_bytes_of(headers) != 0:
            raise too_long(upload.length_bytes)
        return Response(status_code=204, headers={**progress_of(upload), **await resumable.status(upload)})
    return Response(status_code=204, headers=await resumable.append(upload.upload_id, offset, checksum))


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 409, 410, 412),
    openapi_extra=described(),
)
async def terminate(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Delete an upload; a file that was ingested from it stays."""
    protocol.require_version(request.headers)
    upload = await resumable.find(upload_id)
    if not await resumable.delete(upload.upload_id):
        raise Problem(409, ProblemCode.CONFLICT, "the upload is complete, and its file is being ingested")
    return Response(status_code=204)


@router.post("/{upload_id}", include_in_schema=False)
async def overridden(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Handle X-HTTP-Method-Override, for clients that can send only GET and POST."""
    match request.headers.get("x-http-method-override", "").upper():
        case "PATCH":
            return await append(upload_id, request, resumable)
        case "HEAD":
            return await progress(upload_id, request, resumable)
        case "DELETE":
            return await terminate(upload_id, request, resumable)
        case _:
            raise Problem(
                405,
                ProblemCode.METHOD_NOT_ALLOWED,
                "an upload supports HEAD, PATCH and DELETE",
                headers={"Allow": "DELETE, HEAD, OPTIONS, PATCH"},
            )


def check_offset(upload: Upload, offset: int) -> None:
    """Compare the offset of a PATCH request with the upload's.

    Raises:
        Problem: they differ (409).
    """
    if offset != upload.offset_bytes:
        raise Problem(
            409,
            ProblemCode.CONFLICT,
            f"the upload's offset is {upload.offset_bytes}, not {offset}",
            headers={"Upload-Offset": str(upload.offset_bytes)},
        )


def _new_upload(request: Request, principal: Principal, length_bytes: int, default_site: str) -> NewUpload:
    headers = request.headers
    pairs = protocol.metadata_of(headers)
    source_id = pairs.get("source_id") or pairs.get("camera_id")
    source = resolve_source(principal, pairs.get("site"), source_id, UploadSource(default_site, "gateway"))
    require_source_access(request, principal, source.site, source.source_id)
    declared = DeclaredFile.of(pairs, headers.get("upload-metadata", "").strip())
    return NewUpload(
        upload_id=uuid4(),
        actor=principal.actor,
        site=source.site,
        source_id=source.source_id,
        length_bytes=length_bytes,
        metadata=declared.to_json(),
    )
