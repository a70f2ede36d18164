"""The API of the Schema Registry in read-only mode, for clients of the topics. Schemas are published with a release."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request

from headrace.gateway.auth.guard import Device
from headrace.gateway.queries.conditional import PRIVATE, VARY
from headrace.gateway.queries.schema_registry import (
    NEWEST,
    READ_ONLY,
    READ_ONLY_REASON,
    SCHEMA_BYTES_MAX,
    SCHEMA_INVALID,
    SCHEMA_MISSING,
    SUBJECT_MISSING,
    SUBJECTS,
    VERSION_INVALID,
    VERSION_MISSING,
    InvalidSchemaError,
    RegistryProblem,
    RegistryResponse,
    RegistryRoute,
    faults_of,
    find_equal,
    registry_errors,
    text_of,
    version_fields,
)
from headrace.schemas.registry import REGISTRY, Schema

router = APIRouter(tags=["schemas"], route_class=RegistryRoute, default_response_class=RegistryResponse)

COMPATIBILITY = "BACKWARD_TRANSITIVE"  # decoders read every published version
SUBJECTS_S = 60  # a release may add versions
_ID_S = 86_400  # an id is the fingerprint of its schema

SchemaId = Annotated[str, Path(description="The schema id in the first bytes of a message.")]
Subject = Annotated[str, Path(examples=["edge.frames.v1-value"])]
Version = Annotated[str, Path(description="A version number, or `latest`.", examples=["latest"])]


@router.get("/", responses=registry_errors())
async def root(_principal: Device) -> RegistryResponse:
    """Return an empty object, by which clients see that this is a Schema Registry; a browser is sent to `/docs`."""
    return _cacheable({}, SUBJECTS_S)


@router.get("/schemas/types", responses=registry_errors())
async def types(_principal: Device) -> RegistryResponse:
    """Return the supported schema types."""
    return _cacheable(["AVRO"], SUBJECTS_S)


@router.get("/schemas/ids/{schema_id}", responses=registry_errors(404))
async def schema(_principal: Device, schema_id: SchemaId) -> RegistryResponse:
    """Return the schema with an id."""
    return _cacheable({"schema": text_of(_by_id(schema_id)), "schemaType": "AVRO"}, _ID_S)


@router.get("/schemas/ids/{schema_id}/schema", responses=registry_errors(404))
async def bare_schema(_principal: Device, schema_id: SchemaId) -> RegistryResponse:
    """Return the schema with an id, without an envelope."""
    return _cacheable(_by_id(schema_id).published, _ID_S)


@router.get("/schemas/ids/{schema_id}/versions", responses=registry_errors(404))
async def versions_with_id(_principal: Device, schema_id: SchemaId) -> RegistryResponse:
    """Return the subjects and versions of a schema id."""
    schemas = SUBJECTS.with_id(_by_id(schema_id).id)
    return _cacheable([{"subject": subject, "version": schema.version} for subject, schema in schemas], SUBJECTS_S)


@router.get("/schemas/ids/{schema_id}/subjects", responses=registry_errors(404))
async def subjects_with_id(_principal: Device, schema_id: SchemaId) -> RegistryResponse:
    """Return the subjects of a schema id."""
    return _cacheable([subject for subject, _ in SUBJECTS.with_id(_by_id(schema_id).id)], SUBJECTS_S)


_SCHEMA_BODY = {
    "type": "object",
    "required": ["schema"],
    "properties": {"schema": {"type": "string"}, "schemaType": {"type": "string", "enum": ["AVRO"]}},
}
_WITH_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA_BODY}}}}


@router.get("/subjects", responses=registry_errors())
async def subjects(
    _principal: Device, prefix: Annotated[str, Query(alias="subjectPrefix", examples=["edge."])] = ""
) -> RegistryResponse:
    """List the subjects, one for each topic, or those that begin with a prefix."""
    return _cacheable(SUBJECTS.with_prefix(prefix), SUBJECTS_S)


@router.post("/subjects/{subject}", responses=registry_errors(404), openapi_extra=_WITH_SCHEMA)
async def find_schema(_principal: Device, request: Request, subject: Subject) -> RegistryResponse:
    """Return the id and version of a schema of a subject; schemas are equal if only comments differ."""
    match = await _find_equal(request, _versions(subject))
    if match is None:
        raise RegistryProblem(404, SCHEMA_MISSING, "Schema not match")
    return RegistryResponse(version_fields(subject, match))


@router.post("/subjects/{subject}/versions", responses=registry_errors(), openapi_extra=_WITH_SCHEMA)
async def register_schema(_principal: Device, request: Request, subject: Subject) -> RegistryResponse:
    """Return the id of a schema that the subject has; a new one is refused (422, 42205)."""
    match = await _find_equal(request, SUBJECTS.versions.get(subject, ()))
    if match is None:
        raise RegistryProblem(422, READ_ONLY, f"Subject {subject!r} does not have this schema. {READ_ONLY_REASON}")
    return RegistryResponse({"id": match.id})


@router.post(
    "/compatibility/subjects/{subject}/versions/{version}", responses=registry_errors(404), openapi_extra=_WITH_SCHEMA
)
async def compatibility(_principal: Device, request: Request, subject: Subject, version: Version) -> RegistryResponse:
    """Return whether a schema reads the data of a version; with `?verbose=true` also why not."""
    return await _compatibility(request, [_version(subject, version)])


@router.post("/compatibility/subjects/{subject}/versions", responses=registry_errors(404), openapi_extra=_WITH_SCHEMA)
async def compatibility_with_all(_principal: Device, request: Request, subject: Subject) -> RegistryResponse:
    """Return whether a schema reads the data of every version; with `?verbose=true` also why not."""
    return await _compatibility(request, _versions(subject))


@router.get("/subjects/{subject}/versions", responses=registry_errors(404))
async def versions(_principal: Device, subject: Subject) -> RegistryResponse:
    """List the versions of a subject."""
    return _cacheable([schema.version for schema in _versions(subject)], SUBJECTS_S)


@router.get("/subjects/{subject}/versions/{version}", responses=registry_errors(404))
async def version(_principal: Device, subject: Subject, version: Version) -> RegistryResponse:
    """Return a version of a subject."""
    return _cacheable(version_fields(subject, _version(subject, version)), SUBJECTS_S)


@router.get("/subjects/{subject}/versions/{version}/schema", responses=registry_errors(404))
async def schema_of_version(_principal: Device, subject: Subject, version: Version) -> RegistryResponse:
    """Return the schema of a version, without an envelope."""
    return _cacheable(_version(subject, version).published, SUBJECTS_S)


@router.get("/config", responses=registry_errors())
async def config(_principal: Device) -> RegistryResponse:
    """Return the compatibility level."""
    return _cacheable({"compatibilityLevel": COMPATIBILITY}, SUBJECTS_S)


@router.get("/config/{subject}", responses=registry_errors(404))
async def config_of(_principal: Device, subject: Subject) -> RegistryResponse:
    """Return the compatibility level of a subject."""
    _versions(subject)
    return _cacheable({"compatibilityLevel": COMPATIBILITY}, SUBJECTS_S)


@router.get("/mode", responses=registry_errors())
async def mode(_principal: Device) -> RegistryResponse:
    """Return the mode: read-only."""
    return _cacheable({"mode": "READONLY"}, SUBJECTS_S)


@router.get("/mode/{subject}", responses=registry_errors(404))
async def mode_of(_principal: Device, subject: Subject) -> RegistryResponse:
    """Return the mode of a subject: read-only."""
    _versions(subject)
    return _cacheable({"mode": "READONLY"}, SUBJECTS_S)


@router.get("/associations/resources/{namespace}/{topic}", include_in_schema=False)  # noqa: FAST003 - the topic does not matter
async def associations(_principal: Device) -> RegistryResponse:
    """Return no associations; clients then use the subject `<topic>-value`."""
    return _cacheable([], SUBJECTS_S)


@router.delete("/subjects/{subject}", include_in_schema=False)  # noqa: FAST003 - the parameters do not matter
@router.delete("/subjects/{subject}/versions/{version}", include_in_schema=False)
@router.put("/config", include_in_schema=False)
@router.put("/config/{subject}", include_in_schema=False)
@router.put("/mode", include_in_schema=False)
@router.put("/mode/{subject}", include_in_schema=False)
async def refuse_write(_principal: Device) -> RegistryResponse:
    """Refuse changes: schemas are published with a release of the service."""
    raise RegistryProblem(
        405,
        READ_ONLY,
        READ_ONLY_REASON,
        {"Allow": "GET, HEAD, OPTIONS"},
    )


def _by_id(wanted: str) -> Schema:
    is_id = wanted.isascii() and wanted.isdigit() and len(wanted) <= 10
    match = REGISTRY.by_id(int(wanted)) if is_id else None
    if match is None:
        raise RegistryProblem(404, SCHEMA_MISSING, "Schema not match")
    return match


def _versions(subject: str) -> tuple[Schema, ...]:
    if subject not in SUBJECTS.versions:
        raise RegistryProblem(404, SUBJECT_MISSING, "Subject not match.")
    return SUBJECTS.versions[subject]


def _version(subject: str, wanted: str) -> Schema:
    _versions(subject)
    if wanted not in NEWEST and not (wanted.isascii() and wanted.isdigit() and int(wanted[:10])):
        raise RegistryProblem(422, VERSION_INVALID, "The version is neither a positive number nor 'latest'")
    match = SUBJECTS.version(subject, wanted)
    if match is None:
        raise RegistryProblem(404, VERSION_MISSING, "Version not match.")
    return match


async def _find_equal(request: Request, schemas: Sequence[Schema]) -> Schema | None:
    try:
        return find_equal(_schema_in(await request.body()), schemas)
    except InvalidSchemaError:
        raise RegistryProblem(422, SCHEMA_INVALID, "Invalid schema") from None


async def _compatibility(request: Request, schemas: Sequence[Schema]) -> RegistryResponse:
    try:
        faults = faults_of(_schema_in(await request.body()), schemas)
    except InvalidSchemaError:
        raise RegistryProblem(422, SCHEMA_INVALID, "Invalid schema") from None
    is_verbose = request.query_params.get("verbose", "").lower() == "true"
    return RegistryResponse({"is_compatible": not faults, **({"messages": faults} if is_verbose else {})})


def _schema_in(body: bytes) -> str:
    if len(body) > 2 * SCHEMA_BYTES_MAX:
        raise InvalidSchemaError
    try:
        lookup: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidSchemaError from None
    if not isinstance(lookup, dict) or not isinstance(lookup.get("schema"), str):
        raise InvalidSchemaError
    if lookup.get("schemaType") not in ("AVRO", None):
        raise InvalidSchemaError
    return str(lookup["schema"])


def _cacheable(body: Any, seconds: int) -> RegistryResponse:
    return RegistryResponse(body, headers={"Cache-Control": PRIVATE.format(seconds), "Vary": VARY})
