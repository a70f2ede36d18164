"""Parse multipart/form-data (RFC 7578) as a stream: fields are held in memory, files are written to sinks.

python-multipart splits the bytes and werkzeug parses the headers of parts, in linear time; this module enforces the
limits, and never holds a file.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from werkzeug.http import parse_options_header

from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.limits import KIB, LDO_BODY_BYTES_MAX

PARTS_MAX = 512
FIELD_BYTES_MAX = LDO_BODY_BYTES_MAX + 64 * KIB  # the largest field is an LDO's metadata
FIELDS_BYTES_MAX = 2 * FIELD_BYTES_MAX
PART_HEADER_BYTES_MAX = 4 * KIB
PART_HEADERS_MAX = 8
FILENAME_CHARACTERS_MAX = 255

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_EXTENDED_FILENAME = re.compile(
    r";\s*filename\*\s*=\s*(?P<charset>utf-8|iso-8859-1)'[^';]*'(?P<value>[^;\s\"]+)", re.IGNORECASE
)


class PartSink(Protocol):
    """Receives the bytes of a file."""

    async def write(self, chunk: bytes) -> None:
        """Write bytes; may wait for memory."""

    async def finish(self) -> None:
        """End the file."""


@dataclass(frozen=True, slots=True)
class FormPart:
    """The headers of a part; a part with a filename is a file."""

    name: str
    filename: str | None
    media_type: str | None


@dataclass(slots=True)
class MultipartForm:
    """A parsed form: its fields, and its files in order."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[FormPart] = field(default_factory=list)


async def read_form(
    content_type: str,
    chunks: AsyncIterator[bytes],
    open_file: Callable[[FormPart, MultipartForm], Awaitable[PartSink]],
    hold: Callable[[int], None],
) -> MultipartForm:
    """Parse a form; `open_file` gets the headers of each file and the form so far, and returns its sink.

    `hold` is called with the number of bytes of a field before they are held, and may raise.

    Raises:
        Problem: the body is not a form (415), malformed (400), or has too many or too large parts (413).
    """
    reader = _FormReader(_boundary(content_type), open_file, hold)
    async for chunk in chunks:
        await reader.feed(chunk)
    return reader.end()


def _boundary(content_type: str) -> bytes:
    media_type, options = parse_options_header(content_type)
    if media_type.lower() != "multipart/form-data":
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, "the body must be multipart/form-data")
    boundary = options.get("boundary", "").encode(errors="replace")
    if not 0 < len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise Problem(400, ProblemCode.BAD_REQUEST, "the boundary of the form must have 1 to 70 characters")
    return boundary


class _FormReader:
    """Reads one form. The parser calls back synchronously, so its events are queued and then handled."""

    def __init__(
        self,
        boundary: bytes,
        open_file: Callable[[FormPart, MultipartForm], Awaitable[PartSink]],
        hold: Callable[[int], None],
    ) -> None:
        self._open_file = open_file
        self._hold = hold
        self._form = MultipartForm()
        self._events: list[tuple[str, bytes]] = []
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[str, str] = {}
        self._part: FormPart | None = None
        self._sink: PartSink | None = None
        self._field = bytearray()
        self._parts = 0
        self._fields_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._events.append(("begin", b"")),
                "on_part_data": lambda data, start, end: self._events.append(("data", data[start:end])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_header_field": lambda data, start, end: self._events.append(("name", data[start:end])),
                "on_header_value": lambda data, start, end: self._events.append(("value", data[start:end])),
                "on_header_end": lambda: self._events.append(("header", b"")),
                "on_headers_finished": lambda: self._events.append(("headers", b"")),
                "on_end": lambda: self._events.append(("whole", b"")),
            },
            max_header_count=PART_HEADERS_MAX,
            max_header_size=PART_HEADER_BYTES_MAX,
        )

    async def feed(self, chunk: bytes) -> None:
        """Handle the events of a chunk."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise Problem(400, ProblemCode.BAD_REQUEST, f"the form is malformed: {error}") from None
        for event, data in self._events:
            await self._handle(event, data)
        self._events.clear()

    def end(self) -> MultipartForm:
        """Return the complete form."""
        if not self._ended:
            raise Problem(400, ProblemCode.BAD_REQUEST, "the form is incomplete")
        return self._form

    async def _handle(self, event: str, data: bytes) -> None:
        match event:
            case "data":
                await self._data(data)
            case "name":
                self._header_name += data
            case "value":
                self._header_value += data
            case "header":
                self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode(
                    "utf-8", "replace"
                )
                self._header_name.clear()
                self._header_value.clear()
            case "begin":
                self._begin()
            case "headers":
                await self._open()
            case "end":
                await self._close()
            case _:
                self._ended = True

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the form has more than {PARTS_MAX} parts")
        self._headers.clear()
        self._field.clear()

    async def _open(self) -> None:
        self._part = part = _part_of(self._headers)
        if part.filename is None:
            if part.name in self._form.fields:
                raise Problem(422, ProblemCode.INVALID, "the form has a duplicate field")
            return
        self._form.files.append(part)
        self._sink = await self._open_file(part, self._form)

    async def _data(self, data: bytes) -> None:
        if self._sink is not None:
            await self._sink.write(data)
            return
        self._fields_bytes += len(data)
        if len(self._field) + len(data) > FIELD_BYTES_MAX or self._fields_bytes > FIELDS_BYTES_MAX:
            raise Problem(
                413,
                ProblemCode.TOO_LARGE,
                f"fields exceed {FIELD_BYTES_MAX} bytes, or {FIELDS_BYTES_MAX} together",
            )
        self._hold(len(data))
        self._field += data

    async def _close(self) -> None:
        assert self._part is not None
        if self._sink is not None:
            sink, self._sink = self._sink, None
            await sink.finish()
            return
        try:
            self._form.fields[self._part.name] = self._field.decode()
        except UnicodeDecodeError:
            raise Problem(400, ProblemCode.BAD_REQUEST, f"the field {self._part.name!r} is not UTF-8") from None


def _extended_filename(disposition: str) -> str | None:
    """Return `filename*`, which goes before `filename` wherever it stands (RFC 6266, section 4.3), or None."""
    match = _EXTENDED_FILENAME.search(_QUOTED.sub('""', disposition))
    if match is None:
        return None
    try:
        return unquote_to_bytes(match["value"]).decode(match["charset"]) or None
    except UnicodeDecodeError:
        return None


def _part_of(headers: dict[str, str]) -> FormPart:
    disposition, options = parse_options_header(headers.get("content-disposition"))
    if disposition.lower() != "form-data" or "name" not in options:
        raise Problem(400, ProblemCode.BAD_REQUEST, "a part of the form has no name")
    filename = _extended_filename(headers["content-disposition"]) or options.get("filename")
    media_type = headers.get("content-type")
    # A browser sends an empty filename for a file field without a file.
    return FormPart(options["name"], None if filename is None else filename[:FILENAME_CHARACTERS_MAX], media_type)
