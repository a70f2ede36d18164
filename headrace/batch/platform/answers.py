"""Describes answers of the two APIs in one line, without keys and without values. Pure."""

import errno
import os

import aiohttp
from pydantic import ValidationError

DETAIL_CHARACTERS_MAX = 200


def detail(content: bytes) -> str:
    """Return an error answer in one line; the HTML page of a proxy is omitted."""
    text = " ".join(content.decode("utf-8", "replace").split())
    return f": {text[:DETAIL_CHARACTERS_MAX]}" if text and not text.startswith("<") else ""


def describe_invalid(path: str, error: ValidationError) -> str:
    """Return the first invalid field of an answer, without its value."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = ".".join(map(str, first["loc"])) or "the body"
    return f"invalid answer from {path}: {location}: {first['msg']}"


def describe_failure(error: aiohttp.ClientError | OSError) -> str:
    """Return why no answer came; the errors' own messages may show a URL with its query."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host name does not resolve"
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return "the certificate is not trusted, or the TLS handshake failed"
        case aiohttp.ClientConnectorError():
            return f"cannot connect: {os.strerror(error.os_error.errno or errno.ECONNREFUSED)}"
        case aiohttp.ClientResponseError():
            return "malformed HTTP response"
        case _:
            return "the connection was lost"


def without_query(url: str) -> str:
    """Return a URL without its query, which may hold a key."""
    return url.split("?", 1)[0]
