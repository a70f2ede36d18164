"""A form with files, as calls take them: fields in memory, files held or staged, and nothing left behind."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from headrace.gateway.auth.guard import limited
from headrace.gateway.auth.principal import Principal
from headrace.gateway.auth.rate_limiter import mebibytes
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.services import Services
from headrace.gateway.uploads.budget import MemoryReservation
from headrace.gateway.uploads.multipart_parser import FormPart, MultipartForm, PartSink, read_form
from headrace.gateway.uploads.publish import PublishedItem, UploadSource, shown_name, take_file
from headrace.gateway.uploads.receiving import Received, Receiving
from headrace.schemas.digest import is_digest
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB

_ROOM_BYTES_MAX = INLINE_BYTES_MAX + MIB
_FORM_BYTES = 64 * 1024  # what a form has around its files


@dataclass(frozen=True, slots=True)
class File:
    """A file that came whole."""

    part: FormPart
    received: Received


class ReceivedForm:
    """A form that came whole. What is not taken of it is gone when the call ends."""

    def __init__(
        self, here: Services, request: Request, caller: Principal, form: MultipartForm, files: list[File]
    ) -> None:
        self._here = here
        self._request = request
        self._caller = caller
        self.fields: Mapping[str, str] = form.fields
        self.files: Sequence[File] = files

    def only_file(self) -> File:
        """Return the one file.

        Raises:
            Problem: there is none (422).
        """
        if not self.files:
            raise Problem(422, ProblemCode.INVALID, "the form holds no file")
        return self.files[0]

    def file_or_none(self) -> File | None:
        """Return the one file; None where there is none, or an empty field that only looks like one."""
        return next((one for one in self.files if one.received.size_bytes), None)

    async def take(
        self, file: File, source: UploadSource, *, index: int = 0, about: str | None = None
    ) -> PublishedItem:
        """Find out what a file is, and publish it.

        Raises:
            Problem: it is empty (422). Rejected: it can never be ingested.
        """
        if not file.received.size_bytes:
            raise Problem(422, ProblemCode.INVALID, "the file is empty")
        found = await self._here.inspector.inspect(file.received.head, file.received.size_bytes)
        return await take_file(
            self._here,
            self._request,
            source,
            file.received,
            found,
            index=index,
            filename=shown_name(file.part.filename),
            about=about,
        )


@asynccontextmanager
async def received_form(
    request: Request, here: Services, caller: Principal, *, files_max: int
) -> AsyncIterator[ReceivedForm]:
    """Read the request's form.

    Raises:
        Problem: it is malformed, has too many files, is too large, comes too slowly, or its `sha256` is not its file's.
    """
    length = request.headers.get("content-length")
    length_bytes = int(length) if length and length.isdigit() else None
    if length_bytes is not None:
        await limited(request, here.limits.upload_mib, caller, mebibytes(length_bytes))
    room = MemoryReservation(
        here.budget, min(length_bytes + _FORM_BYTES if length_bytes is not None else MIB * 64, _ROOM_BYTES_MAX)
    )
    receiving: list[Receiving] = []
    files: list[File] = []

    async def open_file(part: FormPart, form: MultipartForm) -> PartSink:
        if len(form.files) > files_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"at most {files_max} files are taken at a time")
        one = Receiving(here.blobs, room, scan=here.scanner.begin() if here.scanner else None)
        receiving.append(one)
        return _FileSink(part, one, files)

    try:
        form = await read_form(request.headers.get("content-type", ""), request.stream(), open_file)
        if length_bytes is None:  # what no length announced is counted now, and holds the next one up
            sent_bytes = sum(one.received.size_bytes for one in files)
            await limited(request, here.limits.upload_mib, caller, mebibytes(sent_bytes))
        _check_digest(form, files)
        yield ReceivedForm(here, request, caller, form, files)
    except ClientDisconnect:
        raise Problem(400, ProblemCode.BAD_REQUEST, "the body ended before it was whole") from None
    finally:
        for one in receiving:
            await one.abandon()
        room.close()


def form_body(fields: Mapping[str, str], required: Sequence[str]) -> dict[str, Any]:
    """Return a form's description for OpenAPI; `binary` is a file, `files` several."""
    schemas: dict[str, dict[str, Any]] = {
        "string": {"type": "string"},
        "binary": {"type": "string", "format": "binary"},
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
    }
    properties = {name: schemas[kind] for name, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": [*required]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


class _FileSink:
    def __init__(self, part: FormPart, receiving: Receiving, files: list[File]) -> None:
        self._part = part
        self._receiving = receiving
        self._files = files

    async def write(self, chunk: bytes) -> None:
        await self._receiving.write(chunk)

    async def finish(self) -> None:
        self._files.append(File(self._part, await self._receiving.finish()))


def _check_digest(form: MultipartForm, files: Sequence[File]) -> None:
    """A caller may say what the one file's digest is, and is told if it arrived otherwise."""
    said = form.fields.get("sha256")
    if said is None:
        return
    if not is_digest(said):
        raise Problem(422, "malformed_digest", "sha256 is not 64 lower-case hexadecimal digits")
    if len(files) != 1 or files[0].received.sha256 != said:
        found = files[0].received.sha256 if len(files) == 1 else "not that of one file"
        raise Problem(422, "digest_mismatch", f"the SHA-256 of what came is {found}, declared {said}")
