"""Every refusal as an RFC 9457 problem: one closed list of codes, each with its status."""

from collections.abc import Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.store.errors import RecordAmbiguousError, RecordMissingError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5  # while a service is away


class ProblemCode(StrEnum):
    """What may be wrong with a request, beside what may be wrong with an event (`RejectCode`)."""

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
    """An RFC 9457 problem."""

    type: str = Field(examples=["urn:headrace:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What happened, in one sentence.")
    code: str = Field(description="The same as in `type`, for programs.", examples=["not_found"])
    request_id: str | None = Field(None, description="Under which the gateway's log has it.")
    hint: str | None = Field(None, description="What to do next.")
    errors: list[dict[str, Any]] | None = Field(None, description="Each field that is wrong.")


class Problem(HTTPException):
    """A refusal; it is an HTTPException so that FastAPI lets it through wherever it is raised."""

    def __init__(
        self, status: int, code: str, detail: str, *, hint: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.hint = hint


# What an event was refused for, where it is more than "the content is wrong" (422).
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
    400: "The request is not what HTTP or this call asks for.",
    401: "No key or token, or none that is good.",
    403: "The key or token does not reach that far.",
    404: "There is no such thing.",
    405: "The path does not know that method.",
    408: "The request came too slowly.",
    409: "It does not fit what is there.",
    410: "It was there, and is gone.",
    411: "The length has to be said.",
    412: "A precondition does not hold.",
    413: "It is too large.",
    415: "It is of a kind that is not taken.",
    416: "The range lies outside.",
    422: "The content is wrong.",
    423: "Another request is at work on it; `Retry-After` says when to try again.",
    429: "Too many requests; `Retry-After` says how long to wait.",
    460: "A checksum does not fit (tus).",
    503: "A needed service is away; `Retry-After` says when to try again.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a call for OpenAPI: those named, and those that every call may give."""
    every = {400, 401, 403, 408, 413, 415, 422, 429, 503, *statuses}
    return {status: _documented(DESCRIPTIONS[status]) for status in sorted(every)}


def _documented(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }


def problem_of_rejection(rejected: RejectedError) -> Problem:
    """Return the problem for an event that can never be ingested."""
    return Problem(_STATUS_OF_REJECT.get(rejected.code, 422), rejected.code, rejected.reason)


def problem_of_error(error: HeadraceError) -> Problem:
    """Return the problem for one of our errors; addresses of services stay in the log."""
    match error:
        case RecordMissingError():
            return Problem(404, ProblemCode.NOT_FOUND, error.what)
        case RecordAmbiguousError():
            return Problem(409, ProblemCode.CONFLICT, error.what, hint=error.hint)
        case _ if error.exit_code == Exit.UNREACHABLE:
            return Problem(
                503,
                ProblemCode.UNAVAILABLE,
                f"a service that the gateway needs is away ({error.code})",
                hint="try again; what was sent with the same bytes is kept once",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        case _:
            return Problem(500, ProblemCode.BROKEN, f"the gateway cannot do this now ({error.code})")


def answer(request_id: str | None, problem: Problem, errors: list[dict[str, Any]] | None = None) -> JSONResponse:
    """Return a problem as the answer to a request."""
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
    """Answer what was raised while a request was handled."""
    problem = as_problem(error)
    if problem.status_code == 405:
        problem.headers = {"Allow": ", ".join(sorted(_methods_of(request)))}
    return answer(request_id_of(request.scope), problem, errors_of(error))


def _methods_of(request: Request) -> set[str]:
    """Return every method that the path knows; the router itself names only those of the first call that fits it."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return methods


def as_problem(error: Exception) -> Problem:
    """Return the problem that an exception is."""
    match error:
        case Problem():
            return error
        case RejectedError():
            return problem_of_rejection(error)
        case HeadraceError():
            found = problem_of_error(error)
            if found.status_code >= 500:
                get_log().warning(Action.REFUSED, code=error.code, why=error.what, address=error.where)
            return found
        case RequestValidationError():
            return Problem(422, ProblemCode.INVALID, _first(error))
        case HTTPException():
            code = _CODE_OF_STATUS.get(error.status_code, ProblemCode.BAD_REQUEST)
            return Problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
        case _:
            get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
            return Problem(500, ProblemCode.BROKEN, "the gateway failed; its log says why, under this request's id")


def errors_of(error: Exception) -> list[dict[str, Any]] | None:
    """Return each field that is wrong, without what stood there: it may be a secret."""
    if not isinstance(error, RequestValidationError):
        return None
    return [{"field": _place(one["loc"]), "what": one["msg"]} for one in error.errors()]


def request_id_of(scope: Any) -> str | None:
    """Return the id under which the log has a request."""
    found = scope.get("state", {}).get("request_id")
    return None if found is None else str(found)


def _first(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{_place(first['loc'])}: {first['msg']}"


def _place(parts: Iterable[object]) -> str:
    return ".".join(str(part) for part in parts)
