"""Conditional and range requests (RFC 9110, sections 13 and 14)."""

import re
from dataclasses import dataclass
from hashlib import sha256

from fastapi import Request, Response
from werkzeug.http import parse_etags, parse_range_header

PRIVATE = "private, max-age={}"
VARY = "Authorization, X-API-Key"  # a cache must not answer another principal
_VERSION = re.compile(r"[1-9]\d{0,8}", re.ASCII)
_EMPTY_SUFFIX = re.compile(r"\s*bytes\s*=\s*-0+\s*", re.ASCII | re.IGNORECASE)
_OFFSET_MAX = 10**18


def etag_of(data: bytes) -> str:
    """Return the entity tag of a response body."""
    return f'"{sha256(data).hexdigest()[:32]}"'


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether If-None-Match has this entity tag, by weak comparison."""
    value = request.headers.get("if-none-match")
    return value is not None and parse_etags(value.strip()).contains_weak(etag.strip('"'))


def if_match_versions(request: Request) -> list[int] | None:
    """Return the versions in If-Match, or None where it allows any; weak entity tags never match."""
    value = request.headers.get("if-match")
    if value is None or value.strip() == "*":
        return None
    return [int(tag) for tag in parse_etags(value.strip()).as_set() if _VERSION.fullmatch(tag)]


def cacheable(seconds: int, data: bytes, request: Request, media_type: str = "application/json") -> Response:
    """Return a response that the client may cache, or 304 where its cached one is current."""
    etag = etag_of(data)
    headers = {"ETag": etag, "Cache-Control": PRIVATE.format(seconds), "Vary": VARY}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes."""

    offset: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """Return the value of Content-Range."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size_bytes}"


class RangeNotSatisfiableError(Exception):
    """The range has no byte of the content."""


def requested_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """Return the byte range that a Range header requests.

    None means all bytes: the header is missing, malformed, or requests several ranges, and may then be ignored.

    Raises:
        RangeNotSatisfiableError: the range has no byte of the content.
    """
    if header is not None and _EMPTY_SUFFIX.fullmatch(header):
        raise RangeNotSatisfiableError
    parsed = parse_range_header(header)
    if parsed is None or parsed.units != "bytes" or len(parsed.ranges) != 1:
        return None
    start, stop = parsed.ranges[0]
    if max(abs(start), stop or 0) > _OFFSET_MAX:
        return None
    if start < 0:
        start = max(size_bytes + start, 0)
    if start >= size_bytes:
        raise RangeNotSatisfiableError
    return ByteRange(start, min(stop or size_bytes, size_bytes) - start)
