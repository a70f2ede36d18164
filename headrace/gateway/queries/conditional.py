"""Conditional requests (RFC 9110, section 13): whether the caller has it already, or changes what it has seen."""

import re
from hashlib import sha256

from fastapi import Request, Response

PRIVATE = "private, max-age={}"
VARY = "Authorization, X-API-Key"  # whoever keeps an answer must not give it to another caller
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def tag_of(data: bytes) -> str:
    """Return an entity tag for an answer's bytes."""
    return f'"{sha256(data).hexdigest()[:32]}"'


def is_not_modified(request: Request, tag: str) -> bool:
    """Say whether If-None-Match names this tag; weak ones compare like strong ones here."""
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    return given.strip() == "*" or any(f'"{value}"' == tag for _, value in _TAG.findall(given))


def if_match_versions(request: Request) -> list[int] | None:
    """Return the versions that If-Match allows; None where any will do. Weak tags match nothing here."""
    given = request.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    return [int(value) for weak, value in _TAG.findall(given) if not weak and re.fullmatch(r"[1-9]\d{0,8}", value)]


def cacheable(seconds: int, data: bytes, request: Request, media_type: str = "application/json") -> Response:
    """Return an answer that the caller may keep for so long, or 304 where it has it already."""
    tag = tag_of(data)
    headers = {"ETag": tag, "Cache-Control": PRIVATE.format(seconds), "Vary": VARY}
    if is_not_modified(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)
