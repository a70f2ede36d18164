"""`/api/v1/uploads`: resumable uploads by tus 1.0.0, for large files and unreliable networks."""

from dataclasses import dataclass, replace
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from headrace.gateway.auth.guard import Device, audit_refusal, limit_upload_bytes, require_source_access
from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.deps import PipelineDep, SettingsDep, UploadsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.tus import protocol
from headrace.gateway.tus.assemble import assemble
from headrace.gateway.tus.lock import UploadLock, locked
from headrace.gateway.tus.parts import PARTS_MAX, PatchReceiver, delete_parts, too_long
from headrace.gateway.tus.protocol import DeclaredFile
from headrace.gateway.tus.responses import STATUS, TusRoute, described, length_header, progress_of, status_headers
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
        is_own = self.principal.actor == upload.actor
        if not (upload.is_partial and is_own):  # a part has no source of its own
            require_source_access(self.request, self.principal, upload.site, upload.source_id)
        if not is_own and not self.principal.has_role(Role.OPERATOR):
            audit_refusal(self.request, ProblemCode.FORBIDDEN, self.principal)
            raise Problem(403, ProblemCode.FORBIDDEN, "the upload belongs to another principal")
        if upload.is_expired:
            raise Problem(410, ProblemCode.GONE, "the upload has expired; begin a new one")
        if upload.state == "failed":
            raise Problem(410, ProblemCode.GONE, f"the file was rejected ({upload.code}): {upload.reason}")
        return upload

    async def append(
        self, upload_id: UUID, offset: int, checksum: protocol.Checksum | None, length: int | None = None
    ) -> dict[str, str]:
        """Append the request's body, and assemble the upload once it is complete; returns the answer's headers.

        `length` is the one that the request sets.
        """
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
            await self._receive(lock, checksum, length)
        upload = await self.uploads.get(upload_id)
        if upload is None:
            raise Problem(404, ProblemCode.NOT_FOUND, "the upload was terminated")
        return {**progress_of(upload), **await self.status(upload)}

    async def _receive(self, lock: UploadLock, checksum: protocol.Checksum | None, length: int | None) -> None:
        sets_length = length is not None and lock.upload.length_bytes is None
        if length is not None:
            check_later_length(lock.upload, length, protocol.body_bytes_of(self.request.headers))
            lock = replace(lock, upload=replace(lock.upload, length_bytes=length))
        if sets_length and checksum is None:
            await self._set_length(lock)
        end = await PatchReceiver(self.uploads, self.pipeline.receiver).receive(
            self.request, self.principal, lock, checksum
        )
        if sets_length and checksum is not None:  # a body that does not match its checksum changes nothing
            await self._set_length(lock)
        if end == lock.upload.length_bytes and not lock.upload.is_partial:
            await self.assemble(lock)

    async def _set_length(self, lock: UploadLock) -> None:
        assert lock.upload.length_bytes is not None
        if not await self.uploads.set_length(lock.upload.upload_id, lock.holder, lock.upload.length_bytes):
            raise Problem(409, ProblemCode.CONFLICT, "the upload was terminated, or another request writes to it")

    async def concatenate(self, concat: protocol.Concat) -> dict[str, str]:
        """Make a final upload of partial ones; returns the answer's headers. A repeated request returns the same one.

        Raises:
            Problem: a partial upload is unknown (404), another principal's (403), of another kind (400), incomplete
                (409) or used (410); the file is too large (413), empty (422), or was rejected.
        """
        metadata = self.request.headers.get("upload-metadata", "").strip()
        final_id = concat.final_id(self.principal.actor, metadata)
        if await self.uploads.get(final_id) is None:
            await self._add_final(concat)
        upload = await self.assembled(await self.find(str(final_id)))
        return {"Location": f"{PATH}/{final_id}", **progress_of(upload), **await self.status(upload)}

    async def _add_final(self, concat: protocol.Concat) -> None:
        lengths: dict[UUID, int] = {}
        part_counts: dict[UUID, int] = {}
        for upload_id in dict.fromkeys(concat.partials):
            upload = await self.find(str(upload_id))
            check_complete_partial(upload)
            lengths[upload_id] = upload.offset_bytes
            part_counts[upload_id] = await self.uploads.part_count(upload_id)
        length = sum(lengths[upload_id] for upload_id in concat.partials)
        protocol.check_length(length)
        if sum(part_counts[upload_id] for upload_id in concat.partials) > PARTS_MAX:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the partial uploads have more than {PARTS_MAX} parts")
        if repeated := length - sum(lengths.values()):  # those of each were counted when they came
            await limit_upload_bytes(self.request, self.principal, repeated)
        new = _new_upload(self.request, self.principal, length, self.settings.gateway_site, concat)
        if not await self.uploads.add_final(
            new,
            concat.partials,
            self.settings.gateway_upload_expiry_hours,
            open_max=self.settings.gateway_uploads_per_caller_max,
        ):
            raise Problem(
                409,
                ProblemCode.CONFLICT,
                "a partial upload was changed meanwhile, or too many final uploads are being assembled",
                headers={"Retry-After": "1"},
            )

    async def assembled(self, upload: Upload) -> Upload:
        """Assemble a complete upload unless another request does; returns it as it is then."""
        if upload.state != "joining" or upload.is_held:
            return upload
        async with locked(self.uploads, upload.upload_id) as lock:
            if lock is not None and lock.upload.state == "joining":
                await self.assemble(lock)
        return await self.find(str(upload.upload_id))

    async def assemble(self, lock: UploadLock) -> None:
        """Assemble a complete upload."""
        await assemble(self.uploads, self.pipeline, lock, traceparent=request_traceparent(self.request))

    async def status(self, upload: Upload) -> dict[str, str]:
        """Return the status of an upload's file, as headers; none while bytes are missing."""
        match upload.state:
            case "done" if not upload.is_partial:
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
    responses=problem_responses(404, 409, 410, 411, 412, 460),
    openapi_extra=described(
        "Upload-Length", "Upload-Defer-Length", "Upload-Concat", "Upload-Metadata", "Upload-Checksum", body=True
    ),
)
async def create(request: Request, resumable: ResumableUploads) -> Response:
    """Create an upload; the request may have its first bytes. A final upload is made of complete partial ones."""
    headers = request.headers
    protocol.check_protocol(headers)
    concat = protocol.concat_of(headers, PATH)
    if concat is not None and not concat.is_partial:
        return Response(status_code=201, headers=await resumable.concatenate(concat))
    length = protocol.length_of(headers, is_partial=concat is not None)
    checksum = protocol.checksum_of(headers)
    expected = protocol.body_bytes_of(headers)
    if expected != 0:
        protocol.require_content_type(headers)
    if expected is not None and length is not None and expected > length:
        raise too_long(length)
    new = _new_upload(request, resumable.principal, length, resumable.settings.gateway_site, concat)
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
    protocol.check_protocol(request.headers)
    upload = await resumable.find(upload_id)
    upload = await resumable.assembled(upload)
    headers = {"Cache-Control": "no-store", **length_header(upload), **progress_of(upload)}
    if upload.concat is not None:
        headers["Upload-Concat"] = upload.concat
    if given := DeclaredFile.from_json(upload.metadata).given:
        headers["Upload-Metadata"] = given
    return Response(headers={**headers, **await resumable.status(upload)})


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 409, 410, 412, 423, 460),
    openapi_extra=described("Upload-Offset", "Upload-Checksum", "Upload-Length", body=True),
)
async def append(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Append bytes; the answer to the last ones has the status of the file, as headers.

    Upload-Length sets a deferred length, once.
    """
    headers = request.headers
    protocol.check_protocol(headers)
    protocol.require_content_type(headers)
    offset = protocol.offset_of(headers)
    checksum = protocol.checksum_of(headers)
    upload = await resumable.find(upload_id)
    if upload.is_final:
        raise Problem(403, ProblemCode.FORBIDDEN, "a final upload takes no bytes")
    length = protocol.later_length_of(headers, is_partial=upload.is_partial)
    if upload.state == "done":
        check_offset(upload, offset)
        if protocol.body_bytes_of(headers) != 0:
            raise too_long(upload.offset_bytes)
        return Response(status_code=204, headers={**progress_of(upload), **await resumable.status(upload)})
    return Response(status_code=204, headers=await resumable.append(upload.upload_id, offset, checksum, length))


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(404, 409, 410, 412),
    openapi_extra=described(),
)
async def terminate(upload_id: str, request: Request, resumable: ResumableUploads) -> Response:
    """Delete an upload; a file that was ingested from it stays."""
    protocol.check_protocol(request.headers)
    upload = await resumable.find(upload_id)
    if not await resumable.delete(upload.upload_id):
        raise Problem(409, ProblemCode.CONFLICT, "the upload is complete, and the file of it is being ingested")
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


def check_later_length(upload: Upload, length: int, body_bytes: int | None) -> None:
    """Check the length that a PATCH request sets.

    Raises:
        Problem: the upload has another length, or more bytes (400).
    """
    if upload.length_bytes not in {None, length}:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the upload's length is {upload.length_bytes}, and cannot be changed"
        )
    if upload.length_bytes is None and length < upload.offset_bytes + (body_bytes or 0):
        raise Problem(400, ProblemCode.BAD_REQUEST, f"Upload-Length is {length}, but the upload has more bytes")


def check_complete_partial(upload: Upload) -> None:
    """Check that a final upload can be made of an upload.

    Raises:
        Problem: it is no partial upload (400), has not all of its bytes (409), or another one was made of it (410).
    """
    if not upload.is_partial:
        raise Problem(400, ProblemCode.BAD_REQUEST, f"{upload.upload_id} is not a partial upload")
    if upload.state != "open":
        raise Problem(410, ProblemCode.GONE, f"another upload was made of {upload.upload_id}; begin a new one")
    if upload.offset_bytes != upload.length_bytes:
        raise Problem(
            409, ProblemCode.CONFLICT, f"the partial upload {upload.upload_id} does not have all of its bytes"
        )


def _new_upload(
    request: Request,
    principal: Principal,
    length_bytes: int | None,
    default_site: str,
    concat: protocol.Concat | None,
) -> NewUpload:
    headers = request.headers
    pairs, given = protocol.metadata_of(headers), headers.get("upload-metadata", "").strip()
    if concat is not None and concat.is_partial:  # what it is a part of has the metadata and the source
        source = UploadSource("", "")
        declared = DeclaredFile(None, None, None, None, given, concat.given)
    else:
        source_id = pairs.get("source_id") or pairs.get("camera_id")
        source = resolve_source(principal, pairs.get("site"), source_id, UploadSource(default_site, "gateway"))
        require_source_access(request, principal, source.site, source.source_id)
        declared = DeclaredFile.of(pairs, given)
    is_final = concat is not None and not concat.is_partial
    if concat is not None and is_final:
        declared = replace(declared, concat=concat.given, partials=tuple(map(str, concat.partials)))
    return NewUpload(
        upload_id=concat.final_id(principal.actor, given) if concat is not None and is_final else uuid4(),
        actor=principal.actor,
        site=source.site,
        source_id=source.source_id,
        length_bytes=length_bytes,
        metadata=declared.to_json(),
    )
