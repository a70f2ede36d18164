"""The dialect of the Schema Registry: its media type, and its own shape of errors, which its clients read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from headrace.gateway.problems import DESCRIPTIONS, as_problem
from headrace.runtime.errors import HeadraceError

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
SUBJECT_MISSING = 40401
VERSION_MISSING = 40402
SCHEMA_MISSING = 40403
READ_ONLY = 42205
SCHEMA_INVALID = 42201
VERSION_INVALID = 42202


class RegistryError(BaseModel):
    """An error, as the Schema Registry says it."""

    error_code: int = Field(examples=[SUBJECT_MISSING])
    message: str = Field(examples=["Subject 'edge.frames.v2-value' not found."])


class RegistryAnswer(JSONResponse):
    """An answer in the registry's media type."""

    media_type = MEDIA_TYPE


class RegistryProblem(HTTPException):
    """A refusal with the registry's own code."""

    def __init__(self, status: int, error_code: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.error_code = error_code


class RegistryRoute(APIRoute):
    """A call whose every refusal, the guard's too, has the registry's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()

        async def handle_and_translate(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError, HeadraceError) as error:
                return _refused(error)

        return handle_and_translate


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the refusals of a call for OpenAPI: those named, and those that every call may give."""
    every = {400, 401, 403, 408, 413, 415, 422, 429, 503, *statuses}
    return {status: {"model": RegistryError, "description": DESCRIPTIONS[status]} for status in sorted(every)}


def _refused(error: Exception) -> Response:
    if isinstance(error, RegistryProblem):
        return _answer(error.status_code, error.error_code, error.detail, error.headers)
    problem = as_problem(error)
    # What is no matter of schemas has the status as its code, as in the registry itself.
    return _answer(problem.status_code, problem.status_code, problem.detail, problem.headers)


def _answer(status: int, error_code: int, message: str, headers: Any) -> Response:
    body = {"error_code": error_code, "message": message}
    return RegistryAnswer(body, status, {"Cache-Control": "no-store", **(headers or {})})
