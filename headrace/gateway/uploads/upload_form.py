"""Receive forms: multipart/form-data with files, URL-encoded ones, and JSON objects of fields."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from headrace.gateway.auth.guard import limit_upload_bytes
from headrace.gateway.auth.principal import Principal
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.uploads.memory import MemoryReservation
from headrace.gateway.uploads.multipart_parser import FIELD_BYTES_MAX, FormPart, MultipartForm, PartSink, read_form
from headrace.gateway.uploads.pipeline import UploadPipeline
from headrace.gateway.uploads.publish import (
    FileDetails,
    PublishedItem,
    UploadSource,
    display_name,
    request_traceparent,
)
from headrace.gateway.uploads.receiving import BodyReceiver, ReceivedBody
from headrace.schemas.digest import is_digest
from headrace.schemas.limits import KIB

FORM_BYTES_MAX = 16 * KIB  # of small forms: a code of 4 KiB, and a few names
ENCODED_BYTES_MAX = 3 * FIELD_BYTES_MAX  # of an LDO's metadata: each byte may take three characters
FIELDS_MAX = 16
URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FormFile:
    """A received file of a form."""

    part: FormPart
    received: ReceivedBody


class ReceivedForm:
    """A received form; its files that are not published are deleted when the request ends."""

    def __init__(
        self,
        request: Request,
        principal: Principal,
        pipeline: UploadPipeline,
        form: MultipartForm,
        files: list[FormFile],
    ) -> None:
        self._pipeline = pipeline
        self._traceparent = request_traceparent(request)
        self._caller = principal.actor
        self.fields: Mapping[str, str] = form.fields
        self.files: Sequence[FormFile] = files

    def only_file(self) -> FormFile:
        """Return the only file.

        Raises:
            Problem: the form has no file (422).
        """
        if not self.files:
            raise Problem(422, ProblemCode.INVALID, "the form has no file")
        return self.files[0]

    def file_or_none(self) -> FormFile | None:
        """Return the only file, or None where there is none or it is empty, as browsers send an unused field."""
        return next((file for file in self.files if file.received.size_bytes), None)

    async def publish(
        self,
        file: FormFile,
        source: UploadSource,
        *,
        index: int = 0,
        about: str | None = None,
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> PublishedItem:
        """Inspect a file and publish it, calling `accepted` between; raises as `UploadPipeline.publish_file`.

        Raises:
            Problem: the file is empty (422).
        """
        if not file.received.size_bytes:
            raise Problem(422, ProblemCode.INVALID, "the file is empty")
        details = FileDetails(index, display_name(file.part.filename), about)
        return await self._pipeline.publish_file(
            source, file.received, details, traceparent=self._traceparent, caller=self._caller, accepted=accepted
        )


@asynccontextmanager
async def received_form(
    request: Request, principal: Principal, pipeline: UploadPipeline, *, files_max: int, takes_json: bool = False
) -> AsyncIterator[ReceivedForm]:
    """Receive the request's form; without files it may also be URL-encoded, or JSON if the call `takes_json`.

    Raises:
        Problem: the form is malformed, too large, too slow, has too many files, or `sha256` does not match its file.
    """
    length = request.headers.get("content-length")
    length_bytes = int(length) if length and length.isdigit() else None
    if length_bytes is not None:
        await limit_upload_bytes(request, principal, length_bytes)
    receiver = pipeline.receiver
    reservation = MemoryReservation(receiver.memory, principal.actor)
    bodies: list[BodyReceiver] = []
    files: list[FormFile] = []

    async def open_file(part: FormPart, form: MultipartForm) -> PartSink:
        if len(form.files) > files_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"a request has at most {files_max} files")
        body = BodyReceiver(receiver.blobs, reservation, scan=receiver.scanner.begin() if receiver.scanner else None)
        bodies.append(body)
        return _FileSink(part, body, files)

    try:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == URLENCODED:
            form = MultipartForm(await urlencoded_form(request, ENCODED_BYTES_MAX, reservation.require))
        elif media_type == JSON and takes_json:
            form = MultipartForm(await _json_form(request))
        else:
            form = await read_form(
                request.headers.get("content-type", ""), request.stream(), open_file, reservation.require
            )
        if length_bytes is None:  # a body of unknown length is counted afterwards, and delays the next request
            await limit_upload_bytes(request, principal, sum(file.received.size_bytes for file in files))
        _check_digest(form, files)
        yield ReceivedForm(request, principal, pipeline, form, files)
    except ClientDisconnect:
        raise Problem(400, ProblemCode.BAD_REQUEST, "the body is incomplete") from None
    finally:
        for body in bodies:
            await body.abandon()
        reservation.close()


async def urlencoded_form(
    request: Request, bytes_max: int = FORM_BYTES_MAX, hold: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Return the fields of a URL-encoded form; `hold` is called with the number of bytes before they are held.

    Raises:
        Problem: it is too large (413), malformed (400), or has duplicate fields (422).
    """
    body = await _small_body(request, bytes_max, hold)
    # Decoding a long one would block the event loop.
    pairs = await asyncio.to_thread(_decoded, body) if len(body) > FORM_BYTES_MAX else _decoded(body)
    if len(pairs) != len(dict(pairs)):
        raise Problem(422, ProblemCode.INVALID, "the form has a duplicate field")
    return dict(pairs)


def _decoded(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the body must be a form of at most {FIELDS_MAX} fields in UTF-8"
        ) from None


async def _json_form(request: Request) -> dict[str, str]:
    """Return the members of a JSON object that are strings; a call passes over those that it does not know."""
    try:
        value = orjson.loads(await _small_body(request, FORM_BYTES_MAX))
    except orjson.JSONDecodeError as error:
        raise Problem(400, ProblemCode.BAD_REQUEST, f"the body is not JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise Problem(422, ProblemCode.INVALID, "the body must be a JSON object")
    return {name: member for name, member in value.items() if isinstance(member, str)}


async def _small_body(request: Request, bytes_max: int, hold: Callable[[int], None] | None = None) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > bytes_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the limit of a form without files is {bytes_max} bytes")
        if hold is not None:
            hold(len(chunk))
        body += chunk
    return bytes(body)


def form_body(fields: Mapping[str, str], required: Sequence[str], *others: str) -> dict[str, Any]:
    """Return the OpenAPI description of a form; `binary` is a file, `files` several, `others` its other media types."""
    schemas: dict[str, dict[str, Any]] = {
        "string": {"type": "string"},
        "binary": {"type": "string", "format": "binary"},
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
    }
    properties = {name: schemas[kind] for name, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": [*required]}
    without_files = {**schema, "properties": {name: schemas[kind] for name, kind in fields.items() if kind == "string"}}
    content = {"multipart/form-data": {"schema": schema}} | {other: {"schema": without_files} for other in others}
    return {"requestBody": {"required": True, "content": content}}


class _FileSink:
    def __init__(self, part: FormPart, body: BodyReceiver, files: list[FormFile]) -> None:
        self._part = part
        self._body = body
        self._files = files

    async def write(self, chunk: bytes) -> None:
        await self._body.write(chunk)

    async def finish(self) -> None:
        self._files.append(FormFile(self._part, await self._body.finish()))


def _check_digest(form: MultipartForm, files: Sequence[FormFile]) -> None:
    """Compare the optional field `sha256` with the digest of the only file."""
    declared = form.fields.get("sha256")
    if declared is None:
        return
    if not is_digest(declared):
        raise Problem(422, "malformed_digest", "sha256 must be 64 lower-case hexadecimal digits")
    if len(files) != 1 or files[0].received.sha256 != declared:
        actual = files[0].received.sha256 if len(files) == 1 else "not that of a single file"
        raise Problem(422, "digest_mismatch", f"the SHA-256 of the file is {actual}, declared {declared}")
