"""Query parameters of the reading routes, and cursors."""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from headrace.gateway.problems import Problem, ProblemCode
from headrace.schemas.limits import CODE_BYTES_MAX, NAME_BYTES_MAX
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import check_code, check_name

PAGE_ITEMS = 50
PAGE_ITEMS_MAX = 500
_CURSOR_CHARACTERS_MAX = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DIGEST = "^[0-9a-f]{64}$"


def _name(value: str) -> str:
    try:
        check_name(value, "it")
    except RejectedError as rejected:
        raise ValueError(rejected.reason) from None
    return value


def _code(value: str) -> str:
    try:
        check_code(value, "it")
    except RejectedError as rejected:
        raise ValueError(rejected.reason) from None
    return value


def _time_us(value: Any) -> int:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its zone, such as 2026-01-31T12:00:00Z")
    # Python parses six fractional digits, which is the precision of the catalog.
    text = re.sub(r"(\.\d{6})\d+", r"\1", value.upper())
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


# The rule of `headrace.schemas.validate`, for the OpenAPI document.
_NAME: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": NAME_BYTES_MAX,
    "pattern": r"^(?!\s)[^\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+(?<!\s)$",
}
Name = Annotated[str, AfterValidator(_name), WithJsonSchema(_NAME)]
"""The name of a site, source, camera or LDO."""

SiteFilter = Annotated[Name | None, Query(max_length=NAME_BYTES_MAX, description="The site.")]
SourceFilter = Annotated[Name | None, Query(max_length=NAME_BYTES_MAX, description="The source.")]
LdoFilter = Annotated[Name | None, Query(max_length=NAME_BYTES_MAX, description="All revisions of this LDO.")]
CodeFilter = Annotated[
    Annotated[str, AfterValidator(_code)] | None, Query(max_length=CODE_BYTES_MAX, description="The scanned code.")
]
DigestFilter = Annotated[str | None, Query(pattern=_DIGEST, description="SHA-256 in 64 lower-case hexadecimal digits.")]
TimeUs = Annotated[int, BeforeValidator(_time_us), WithJsonSchema({"type": "string", "format": "date-time"})]
SinceFilter = Annotated[TimeUs | None, Query(description="Ingested at or after this time (RFC 3339 with zone).")]
UntilFilter = Annotated[TimeUs | None, Query(description="Ingested before this time (RFC 3339 with zone).")]
Limit = Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX, description="The maximum number of items.")]
Cursor = Annotated[str | None, Query(max_length=_CURSOR_CHARACTERS_MAX, description="The cursor of the previous page.")]
Digest = Annotated[str, Path(description="SHA-256 in 64 lower-case hexadecimal digits.")]


def encode_cursor(text: str) -> str:
    """Return an opaque, URL-safe cursor."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the content of a cursor.

    Raises:
        Problem: the cursor is invalid (422).
    """
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid_cursor() from None


def invalid_cursor() -> Problem:
    """Return the problem for an invalid cursor."""
    return Problem(422, ProblemCode.INVALID, "invalid cursor", hint="request the first page without a cursor")
