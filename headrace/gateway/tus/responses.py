"""The responses of resumable uploads: their common header, the status of the file, and the OpenAPI description."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from headrace.gateway.problems import Problem, as_problem
from headrace.gateway.tus import protocol
from headrace.gateway.uploads.results import IngestResults, status_of, status_path
from headrace.runtime.errors import HeadraceError
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectedError
from headrace.store.requests.ingest_status import MessageRef
from headrace.store.requests.uploads import Upload

STATUS = "Headrace-Status"
RECORD_ID = "Headrace-Record-Id"
STATUS_URL = "Headrace-Status-Url"
EXPOSED = (
    *("Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
    *("Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Concat", "Upload-Metadata", "Upload-Expires"),
    *(STATUS, RECORD_ID, STATUS_URL),
)
"""The response headers that a web page of another origin may read."""

_STATUS_S_MAX = 1.0  # the request with the last byte has waited for the status already
_DAY_S = 86_400.0

_NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Tus-Resumable": ("The version of the protocol.", {"type": "string", "enum": [protocol.VERSION]}),
    "Upload-Length": ("The length of the file in bytes; once only.", {**_NUMBER, "minimum": 1}),
    "Upload-Defer-Length": (
        "`1`, instead of Upload-Length: a later PATCH request has the length.",
        {"type": "string", "enum": ["1"]},
    ),
    "Upload-Concat": (
        "`partial`, or `final;` and the URLs of complete partial uploads, separated by spaces.",
        {"type": "string", "pattern": "^(partial|final;[!-~]+( [!-~]+)*)$"},
    ),
    "Upload-Offset": ("The offset of the bytes.", _NUMBER),
    "Upload-Metadata": (
        "Keys such as `filename`, `site` and `source_id`, each with its value in Base64.",
        {"type": "string"},
    ),
    "Upload-Checksum": (
        "`sha1` or `sha256`, and the digest of the body in Base64.",
        {"type": "string", "pattern": "^(sha1 [A-Za-z0-9+/]{27}=|sha256 [A-Za-z0-9+/]{43}=)$"},
    ),
}
_REQUIRED = frozenset({"Tus-Resumable", "Upload-Offset"})


class TusRoute(APIRoute):
    """Adds `Tus-Resumable` to every response, including errors."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the request handler."""
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response = await inner(request)
            except (Problem, RejectedError, HeadraceError) as error:
                problem = as_problem(error)
                problem.headers = {**(problem.headers or {}), "Tus-Resumable": protocol.VERSION}
                raise problem from None
            response.headers["Tus-Resumable"] = protocol.VERSION
            return response

        return handler


def progress_of(upload: Upload) -> dict[str, str]:
    """Return the offset and the expiry of an upload, as headers; a final upload has its offset once it is assembled."""
    expires = {"Upload-Expires": protocol.expires(upload.expires_at_s)}
    if upload.is_final and upload.state == "joining":
        return expires
    return {"Upload-Offset": str(upload.offset_bytes), **expires}


def length_header(upload: Upload) -> dict[str, str]:
    """Return the length of an upload, or that it is not known yet, as a header."""
    if upload.length_bytes is None:
        return {"Upload-Defer-Length": "1"}
    return {"Upload-Length": str(upload.length_bytes)}


async def status_headers(results: IngestResults, upload: Upload, expiry_hours: float) -> dict[str, str]:
    """Return the status of the file of an upload in the state 'done', as headers.

    Raises:
        Problem: an agent rejected the file (422).
    """
    items = await results.requests.items(upload.upload_id)
    if not items:  # the request has expired: it is older than the retention of the outbox
        return {STATUS: "ingested"}
    item = items[0]
    assert item.kind and item.digest and item.topic  # noqa: PT018 - it was published
    assert item.partition is not None and item.offset is not None  # noqa: PT018
    record = record_id(Kind(item.kind), item.digest)
    since_s = upload.expires_at_s - expiry_hours * 3600 - _DAY_S
    message = MessageRef(item.topic, item.partition, item.offset, record, since_s)
    [status] = await results.wait.outcomes([message], _STATUS_S_MAX)
    return {STATUS: status_of(status), RECORD_ID: str(record), STATUS_URL: status_path(upload.upload_id)}


def described(*names: str, body: bool = False) -> dict[str, Any]:
    """Return the OpenAPI description of a route's headers and body."""
    parameters = [
        {"name": name, "in": "header", "required": name in _REQUIRED, "description": text, "schema": schema}
        for name, (text, schema) in _HEADERS.items()
        if name in {"Tus-Resumable", *names}
    ]
    description: dict[str, Any] = {"parameters": parameters}
    if body:
        content = {protocol.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}
        description["requestBody"] = {"required": "Upload-Offset" in names, "content": content}
    return description
