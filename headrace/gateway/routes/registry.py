"""The Schema Registry's read API, so that its clients read our topics as they are. Schemas come with a release."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Request

from headrace.gateway.auth.guard import Device
from headrace.gateway.queries.conditional import PRIVATE, VARY
from headrace.gateway.queries.confluent import (
    READ_ONLY,
    SCHEMA_INVALID,
    SCHEMA_MISSING,
    SUBJECT_MISSING,
    VERSION_INVALID,
    VERSION_MISSING,
    RegistryAnswer,
    RegistryProblem,
    RegistryRoute,
    refusals,
)
from headrace.gateway.queries.subjects import (
    NEWEST,
    SCHEMA_BYTES_MAX,
    SUBJECTS,
    InvalidSchemaError,
    same_as,
    text_of,
    whole,
)
from headrace.schemas.registry import REGISTRY, Schema

router = APIRouter(tags=["schemas"], route_class=RegistryRoute, default_response_class=RegistryAnswer)

COMPATIBILITY = "BACKWARD_TRANSITIVE"  # decoders read every version that was ever published
SUBJECTS_S = 60  # a new release may bring versions
_ID_S = 86_400  # an id is the schema's own fingerprint

SchemaId = Annotated[str, Path(description="A schema's id, as the first bytes of a message say it.")]
Subject = Annotated[str, Path(examples=["edge.frames.v1-value"])]
Version = Annotated[str, Path(description="A number, or `latest`.", examples=["latest"])]


@router.get("/schemas/types", responses=refusals())
async def types(_principal: Device) -> RegistryAnswer:
    """Return the kinds of schemas."""
    return _kept(["AVRO"], SUBJECTS_S)


@router.get("/schemas/ids/{schema_id}", responses=refusals(404))
async def schema(_principal: Device, schema_id: SchemaId) -> RegistryAnswer:
    """Return the schema of an id."""
    return _kept({"schema": text_of(_by_id(schema_id)), "schemaType": "AVRO"}, _ID_S)


@router.get("/schemas/ids/{schema_id}/schema", responses=refusals(404))
async def bare_schema(_principal: Device, schema_id: SchemaId) -> RegistryAnswer:
    """Return the schema of an id, and nothing around it."""
    return _kept(_by_id(schema_id).published, _ID_S)


@router.get("/schemas/ids/{schema_id}/versions", responses=refusals(404))
async def versions_with_id(_principal: Device, schema_id: SchemaId) -> RegistryAnswer:
    """Return the subjects and versions that an id stands for."""
    found = SUBJECTS.with_id(_by_id(schema_id).id)
    return _kept([{"subject": subject, "version": one.version} for subject, one in found], SUBJECTS_S)


@router.get("/schemas/ids/{schema_id}/subjects", responses=refusals(404))
async def subjects_with_id(_principal: Device, schema_id: SchemaId) -> RegistryAnswer:
    """Return the subjects that have the schema of an id."""
    return _kept([subject for subject, _ in SUBJECTS.with_id(_by_id(schema_id).id)], SUBJECTS_S)


_LOOKUP = {
    "type": "object",
    "required": ["schema"],
    "properties": {"schema": {"type": "string"}, "schemaType": {"type": "string", "enum": ["AVRO"]}},
}


@router.get("/subjects", responses=refusals())
async def subjects(_principal: Device) -> RegistryAnswer:
    """List the subjects: one for each topic."""
    return _kept(sorted(SUBJECTS.of), SUBJECTS_S)


@router.post(
    "/subjects/{subject}",
    responses=refusals(404),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _LOOKUP}}}},
)
async def find_schema(_principal: Device, request: Request, subject: Subject) -> RegistryAnswer:
    """Find out under which id and version a subject has a schema; it is the same where only comments differ."""
    known = _versions(subject)
    try:
        found = same_as(_schema_in(await request.body()), known)
    except InvalidSchemaError:
        raise RegistryProblem(422, SCHEMA_INVALID, "Invalid schema") from None
    if found is None:
        raise RegistryProblem(404, SCHEMA_MISSING, "Schema not found")
    return RegistryAnswer(whole(subject, found))


@router.get("/subjects/{subject}/versions", responses=refusals(404))
async def versions(_principal: Device, subject: Subject) -> RegistryAnswer:
    """List a subject's versions."""
    return _kept([one.version for one in _versions(subject)], SUBJECTS_S)


@router.get("/subjects/{subject}/versions/{version}", responses=refusals(404))
async def version(_principal: Device, subject: Subject, version: Version) -> RegistryAnswer:
    """Return one version of a subject."""
    return _kept(whole(subject, _version(subject, version)), SUBJECTS_S)


@router.get("/subjects/{subject}/versions/{version}/schema", responses=refusals(404))
async def schema_of_version(_principal: Device, subject: Subject, version: Version) -> RegistryAnswer:
    """Return the schema of one version, and nothing around it."""
    return _kept(_version(subject, version).published, SUBJECTS_S)


@router.get("/config", responses=refusals())
async def config(_principal: Device) -> RegistryAnswer:
    """Say how versions fit each other."""
    return _kept({"compatibilityLevel": COMPATIBILITY}, SUBJECTS_S)


@router.get("/config/{subject}", responses=refusals(404))
async def config_of(_principal: Device, subject: Subject) -> RegistryAnswer:
    """Say how a subject's versions fit each other."""
    _versions(subject)
    return _kept({"compatibilityLevel": COMPATIBILITY}, SUBJECTS_S)


@router.get("/mode", responses=refusals())
async def mode(_principal: Device) -> RegistryAnswer:
    """Say that nothing can be registered here."""
    return _kept({"mode": "READONLY"}, SUBJECTS_S)


@router.get("/mode/{subject}", responses=refusals(404))
async def mode_of(_principal: Device, subject: Subject) -> RegistryAnswer:
    """Say that nothing can be registered under a subject."""
    _versions(subject)
    return _kept({"mode": "READONLY"}, SUBJECTS_S)


@router.get("/associations/resources/{namespace}/{topic}", include_in_schema=False)  # noqa: FAST003 - any topic
async def associations(_principal: Device) -> RegistryAnswer:
    """Say that no topic has a subject of another name; clients then take `<topic>-value`."""
    return _kept([], SUBJECTS_S)


@router.post("/subjects/{subject}/versions", include_in_schema=False)  # noqa: FAST003 - none of them matters
@router.delete("/subjects/{subject}", include_in_schema=False)
@router.delete("/subjects/{subject}/versions/{version}", include_in_schema=False)
@router.put("/config", include_in_schema=False)
@router.put("/config/{subject}", include_in_schema=False)
@router.put("/mode", include_in_schema=False)
@router.put("/mode/{subject}", include_in_schema=False)
async def refuse_write(_principal: Device) -> RegistryAnswer:
    """Refuse to change anything: schemas are published with a release of the service."""
    raise RegistryProblem(
        405, READ_ONLY, "This registry is in read-only mode: schemas come with a release", {"Allow": "GET"}
    )


def _by_id(wanted: str) -> Schema:
    found = REGISTRY.by_id(int(wanted)) if wanted.isascii() and wanted.isdigit() and len(wanted) <= 10 else None
    if found is None:
        raise RegistryProblem(404, SCHEMA_MISSING, "Schema not found")
    return found


def _versions(subject: str) -> tuple[Schema, ...]:
    if subject not in SUBJECTS.of:
        raise RegistryProblem(404, SUBJECT_MISSING, "Subject not found.")
    return SUBJECTS.of[subject]


def _version(subject: str, wanted: str) -> Schema:
    _versions(subject)
    if wanted not in NEWEST and not (wanted.isascii() and wanted.isdigit() and int(wanted[:10])):
        raise RegistryProblem(422, VERSION_INVALID, "The version is neither a positive number nor 'latest'")
    found = SUBJECTS.version(subject, wanted)
    if found is None:
        raise RegistryProblem(404, VERSION_MISSING, "Version not found.")
    return found


def _schema_in(body: bytes) -> str:
    if len(body) > 2 * SCHEMA_BYTES_MAX:
        raise InvalidSchemaError
    try:
        given: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidSchemaError from None
    if not isinstance(given, dict) or not isinstance(given.get("schema"), str):
        raise InvalidSchemaError
    if given.get("schemaType") not in ("AVRO", None):
        raise InvalidSchemaError
    return str(given["schema"])


def _kept(body: Any, seconds: int) -> RegistryAnswer:
    return RegistryAnswer(body, headers={"Cache-Control": PRIVATE.format(seconds), "Vary": VARY})
