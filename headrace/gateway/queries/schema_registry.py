"""The Schema Registry API: its media type and errors, and the schemas of each topic as a subject, `<topic>-value`."""

import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from headrace.gateway.problems import DESCRIPTIONS, as_problem
from headrace.gateway.queries.schema_resolution import why_unreadable
from headrace.runtime.errors import HeadraceError
from headrace.schemas.limits import KIB
from headrace.schemas.registry import REGISTRY, Registry, Schema, schema_id
from headrace.schemas.topics import TOPICS

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
SUBJECT_MISSING = 40401
VERSION_MISSING = 40402
SCHEMA_MISSING = 40403
READ_ONLY = 42205
READ_ONLY_REASON = "This registry is in read-only mode: schemas come with a release"
SCHEMA_INVALID = 42201
VERSION_INVALID = 42202
SCHEMA_BYTES_MAX = 64 * KIB
NEWEST = frozenset({"latest", "-1"})
_SUFFIX = "-value"
_CONTEXTS = (":*:", ":.:")  # all, and the default


class RegistryError(BaseModel):
    """An error of the Schema Registry API."""

    error_code: int = Field(examples=[SUBJECT_MISSING])
    message: str = Field(examples=["Subject 'edge.frames.v2-value' not found."])


class RegistryResponse(JSONResponse):
    """A response with the media type of the Schema Registry."""

    media_type = MEDIA_TYPE


class RegistryProblem(HTTPException):
    """An error with a code of the Schema Registry."""

    def __init__(self, status: int, error_code: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.error_code = error_code


class RegistryRoute(APIRoute):
    """A route whose errors, including those of authentication, have the format of the Schema Registry."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the request handler."""
        handle = super().get_route_handler()

        async def handle_and_translate(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError, HeadraceError) as error:
                return _error_response(error)

        return handle_and_translate


def registry_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's errors for OpenAPI: the given ones, and those of every route."""
    all_statuses = {400, 401, 403, 408, 413, 415, 422, 429, 503, *statuses}
    return {status: {"model": RegistryError, "description": DESCRIPTIONS[status]} for status in sorted(all_statuses)}


def _error_response(error: Exception) -> Response:
    if isinstance(error, RegistryProblem):
        return _response(error.status_code, error.error_code, error.detail, error.headers)
    problem = as_problem(error)
    # Other errors have their status as the code, as in the Schema Registry.
    return _response(problem.status_code, problem.status_code, problem.detail, problem.headers)


def _response(status: int, error_code: int, message: str, headers: Any) -> Response:
    body = {"error_code": error_code, "message": message}
    return RegistryResponse(body, status, {"Cache-Control": "no-store", **(headers or {})})


class InvalidSchemaError(Exception):
    """The text is not an Avro schema."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """All versions of all subjects. A schema of several topics belongs to several subjects."""

    versions: dict[str, tuple[Schema, ...]]

    @classmethod
    def of_topics(cls, registry: Registry = REGISTRY) -> "Subjects":
        """Return the subjects of all topics."""
        versions: dict[str, list[Schema]] = {}
        for schema in sorted(registry, key=lambda schema: schema.version):
            versions.setdefault(schema.name, []).append(schema)
        return cls({f"{topic.name}{_SUFFIX}": tuple(versions[topic.event.__name__]) for topic in TOPICS.values()})

    def with_id(self, wanted: int) -> list[tuple[str, Schema]]:
        """Return the subjects and versions of a schema id; empty where it is unknown."""
        return [
            (name, schema)
            for name, schemas in sorted(self.versions.items())
            for schema in schemas
            if schema.id == wanted
        ]

    def with_prefix(self, prefix: str) -> list[str]:
        """Return the names of subjects that begin with `prefix`, which may name all contexts or the only one first."""
        for context in _CONTEXTS:
            prefix = prefix.removeprefix(context)
        return sorted(name for name in self.versions if name.startswith(prefix))

    def version(self, subject: str, wanted: str) -> Schema | None:
        """Return a version of a known subject, by its number or `latest`."""
        schemas = self.versions[subject]
        if wanted in NEWEST:
            return schemas[-1]
        return next((schema for schema in schemas if str(schema.version) == wanted), None)


def text_of(schema: Schema) -> str:
    """Return a schema as text."""
    return json.dumps(schema.published, separators=(",", ":"))


def version_fields(subject: str, schema: Schema) -> dict[str, Any]:
    """Return a version of a subject as the fields of a response."""
    return {
        "subject": subject,
        "version": schema.version,
        "id": schema.id,
        "schemaType": "AVRO",
        "schema": text_of(schema),
    }


def find_equal(text: str, schemas: Sequence[Schema]) -> Schema | None:
    """Return the version with the same canonical form as a schema, or None.

    Comments, defaults, aliases and the order of keys do not count. A logical type may be left out, but a different one
    gives the same bytes another meaning.

    Raises:
        InvalidSchemaError: the text is not a schema.
    """
    wanted = _parsed(text)
    try:
        wanted_id = schema_id(wanted)
        wanted_types = dict(_logical_types(wanted, ""))
    except Exception as error:  # fastavro raises many types for an invalid schema
        raise InvalidSchemaError from error
    match = next((schema for schema in schemas if schema.id == wanted_id), None)
    if match is None or not wanted_types.items() <= dict(_logical_types(match.published, "")).items():
        return None
    return match


def faults_of(text: str, schemas: Sequence[Schema]) -> list[str]:
    """Return why a schema does not read the data of each of the versions; empty where it reads all of them.

    Raises:
        InvalidSchemaError: the text is not a schema.
    """
    wanted = _parsed(text)
    try:
        faults = [(schema.version, why_unreadable(wanted, schema.published)) for schema in schemas]
    except Exception as error:  # fastavro raises many types for an invalid schema
        raise InvalidSchemaError from error
    return [f"version {version}: {fault}" for version, fault in faults if fault is not None]


def _parsed(text: str) -> Any:
    if len(text) > SCHEMA_BYTES_MAX:
        raise InvalidSchemaError
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidSchemaError from error


def _logical_types(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the logical types within a schema, each with its place."""
    if isinstance(node, list):
        for index, branch in enumerate(node):
            yield from _logical_types(branch, f"{path}/{index}")
    if not isinstance(node, dict):
        return
    if isinstance(logical_type := node.get("logicalType"), str):
        yield path, logical_type
    for key in ("type", "items", "values"):
        if isinstance(inner := node.get(key), dict | list):
            yield from _logical_types(inner, path if key == "type" else f"{path}/{key}")
    for entry in node.get("fields", ()):
        yield from _logical_types(entry, f"{path}/{entry['name']}")


SUBJECTS = Subjects.of_topics()
