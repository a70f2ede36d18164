"""Problem details for HTTP APIs (RFC 9457): one closed list of codes, each with its status."""

from collections.abc import Iterable
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.store.errors import (
    DeadLetterAmbiguousError,
    DeadLetterMissingError,
    RecordAmbiguousError,
    RecordMissingError,
    RedriveRunningError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5  # while a service is unavailable


class ProblemCode(StrEnum):
    """The codes of problems with requests; those of events are in `RejectCode`."""

    BAD_REQUEST = "bad_request"
    KEY_IN_URL = "key_in_url"
    NOT_AUTHENTICATED = "not_authenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_SLOW = "too_slow"
    CONFLICT = "conflict"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    ARCHIVED = "archived"
    AT_SITE = "at_site"
    GONE = "gone"
    LENGTH_REQUIRED = "length_required"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    INVALID = "invalid"
    HOLDS_LOGIN = "holds_login"
    URL_REFUSED = "url_refused"
    ADDRESS_REFUSED = "address_refused"
    MODE_UNAVAILABLE = "mode_unavailable"
    INFECTED = "infected"
    TOO_MANY_REQUESTS = "too_many_requests"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    LOCKED = "locked"
    BROKEN = "broken"
    UNAVAILABLE = "unavailable"


class ProblemBody(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:headrace:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What happened, in one sentence.")
    code: str = Field(description="The code of `type`, for programs.", examples=["not_found"])
    request_id: str | None = Field(None, description="The request's id in the log of the gateway.")
    hint: str | None = Field(None, description="What to do next.")
    errors: list[dict[str, Any]] | None = Field(None, description="The invalid fields.")


class Problem(HTTPException):
    """A request that cannot be served; an HTTPException, which FastAPI handles wherever it is raised."""

    def __init__(
        self, status: int, code: str, detail: str, *, hint: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.hint = hint

    def __reduce__(self) -> tuple["partial[Problem]", tuple[int, str, str]]:
        """Let it be raised in a child process: without this, it is unpickled without its code."""
        headers = None if self.headers is None else dict(self.headers)
        return partial(type(self), hint=self.hint, headers=headers), (self.status_code, self.code, self.detail)


def unavailable(detail: str, *, hint: str | None = None) -> Problem:
    """Return the problem of what is unavailable for the moment (503)."""
    return Problem(503, ProblemCode.UNAVAILABLE, detail, hint=hint, headers={"Retry-After": str(RETRY_AFTER_S)})


# Rejections with another status than 422.
_STATUS_OF_REJECT = {
    RejectCode.TOO_LARGE: 413,
    RejectCode.NOT_AN_IMAGE: 415,
    RejectCode.NOT_A_VIDEO: 415,
}
_CODE_OF_STATUS = {
    400: ProblemCode.BAD_REQUEST,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
}
DESCRIPTIONS = {
    400: "Bad request.",
    401: "Not authenticated: the API key or token is missing or invalid.",
    403: "Forbidden: the API key or token has no access.",
    404: "Not found.",
    405: "Method not allowed.",
    408: "Request timeout: the client sent too slowly.",
    409: "Conflict.",
    410: "Gone.",
    411: "Length required.",
    412: "Precondition failed.",
    413: "Content too large.",
    415: "Unsupported media type.",
    416: "Range not satisfiable.",
    422: "Unprocessable content.",
    423: "Locked by another request; `Retry-After` has the seconds to wait.",
    429: "Too many requests; `Retry-After` has the seconds to wait.",
    460: "Checksum mismatch (tus).",
    503: "Service unavailable; `Retry-After` has the seconds to wait.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's problems for OpenAPI: the given ones, and those of every route."""
    all_statuses = {400, 401, 403, 408, 413, 415, 422, 429, 503, *statuses}
    return {status: _documented(DESCRIPTIONS[status]) for status in sorted(all_statuses)}


def _documented(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }


def problem_of_rejection(rejected: RejectedError) -> Problem:
    """Return the problem for a rejected event."""
    return Problem(_STATUS_OF_REJECT.get(rejected.code, 422), rejected.code, rejected.reason)


def problem_of_error(error: HeadraceError) -> Problem:
    """Return the problem for an error of Headrace; the addresses of services are only in the log."""
    match error:
        case RecordMissingError() | DeadLetterMissingError():
            return Problem(404, ProblemCode.NOT_FOUND, error.what)
        case RecordAmbiguousError() | DeadLetterAmbiguousError() | RedriveRunningError():
            return Problem(409, ProblemCode.CONFLICT, error.what, hint=error.hint)
        case _ if error.exit_code == Exit.UNREACHABLE:
            return unavailable(
                f"a service is unavailable ({error.code})", hint="repeat the request; the same bytes are stored once"
            )
        case _:
            return Problem(500, ProblemCode.BROKEN, f"internal error ({error.code})")


def problem_response(
    request_id: str | None, problem: Problem, errors: list[dict[str, Any]] | None = None
) -> JSONResponse:
    """Return the response for a problem."""
    body = ProblemBody(
        type=f"urn:headrace:problem:{problem.code}",
        title=HTTPStatus(problem.status_code).phrase if problem.status_code in _PHRASES else "Problem",
        status=problem.status_code,
        detail=problem.detail,
        code=problem.code,
        request_id=request_id,
        hint=problem.hint,
        errors=errors,
    )
    return JSONResponse(body.model_dump(exclude_none=True), problem.status_code, problem.headers, media_type=MEDIA_TYPE)


_PHRASES = frozenset(HTTPStatus)


async def on_problem(request: Request, error: Exception) -> JSONResponse:
    """Handle an exception of a route."""
    problem = as_problem(error)
    return problem_response(request_id_of(request.scope), problem, errors_of(error))


def as_problem(error: Exception) -> Problem:
    """Return the problem for an exception."""
    match error:
        case Problem():
            return error
        case RejectedError():
            return problem_of_rejection(error)
        case HeadraceError():
            problem = problem_of_error(error)
            if problem.status_code >= 500:
                get_log().warning(Action.REFUSED, code=error.code, why=error.what, address=error.where)
            return problem
        case RequestValidationError():
            return Problem(422, ProblemCode.INVALID, _first(error))
        case HTTPException():
            code = _CODE_OF_STATUS.get(error.status_code, ProblemCode.BAD_REQUEST)
            return Problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
        case _:
            get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
            return Problem(
                500,
                ProblemCode.BROKEN,
                "internal error; the log has the details under this request's id",
            )


def errors_of(error: Exception) -> list[dict[str, Any]] | None:
    """Return the invalid fields without their values, which may be secrets."""
    if not isinstance(error, RequestValidationError):
        return None
    return [{"field": _path(entry["loc"]), "what": entry["msg"]} for entry in error.errors()]


def request_id_of(scope: Any) -> str | None:
    """Return the id of a request in the log."""
    request_id = scope.get("state", {}).get("request_id")
    return None if request_id is None else str(request_id)


def _first(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{_path(first['loc'])}: {first['msg']}"


def _path(parts: Iterable[object]) -> str:
    return ".".join(str(part) for part in parts)
