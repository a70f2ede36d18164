"""Our schemas as a Schema Registry shows them: each topic's value is a subject, named `<topic>-value`. No I/O."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from headrace.schemas.limits import KIB
from headrace.schemas.registry import REGISTRY, Registry, Schema, schema_id
from headrace.schemas.topics import TOPICS

SCHEMA_BYTES_MAX = 64 * KIB
NEWEST = frozenset({"latest", "-1"})
_SUFFIX = "-value"


class InvalidSchemaError(Exception):
    """A text is no Avro schema."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Every version of every subject. A schema that several topics carry belongs to several subjects."""

    of: dict[str, tuple[Schema, ...]]

    @classmethod
    def of_topics(cls, registry: Registry = REGISTRY) -> "Subjects":
        """Return the subjects of all topics."""
        versions: dict[str, list[Schema]] = {}
        for schema in sorted(registry, key=lambda one: one.version):
            versions.setdefault(schema.name, []).append(schema)
        return cls({f"{topic.name}{_SUFFIX}": tuple(versions[topic.event.__name__]) for topic in TOPICS.values()})

    def with_id(self, wanted: int) -> list[tuple[str, Schema]]:
        """Return where a schema is, as subject and version; empty where it is not known."""
        return [
            (name, schema) for name, schemas in sorted(self.of.items()) for schema in schemas if schema.id == wanted
        ]

    def version(self, subject: str, wanted: str) -> Schema | None:
        """Return a version of a subject that is there, by its number or as `latest`."""
        schemas = self.of[subject]
        if wanted in NEWEST:
            return schemas[-1]
        return next((one for one in schemas if str(one.version) == wanted), None)


def text_of(schema: Schema) -> str:
    """Return a schema as text."""
    return json.dumps(schema.published, separators=(",", ":"))


def whole(subject: str, schema: Schema) -> dict[str, Any]:
    """Return a version as the registry describes it."""
    return {
        "subject": subject,
        "version": schema.version,
        "id": schema.id,
        "schemaType": "AVRO",
        "schema": text_of(schema),
    }


def same_as(text: str, schemas: Sequence[Schema]) -> Schema | None:
    """Return the version that reads and writes the same bytes as a schema that somebody has.

    Raises:
        Unreadable: the text is no schema.
    """
    if len(text) > SCHEMA_BYTES_MAX:
        raise InvalidSchemaError
    try:
        wanted = schema_id(orjson.loads(text))
    except Exception as error:  # fastavro raises whatever a strange schema makes it stumble over
        raise InvalidSchemaError from error
    return next((one for one in schemas if one.id == wanted), None)


SUBJECTS = Subjects.of_topics()
