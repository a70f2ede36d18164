"""The Avro schemas: every version ever published, by an id that needs no registry.

The id is the upper 31 bits of the CRC-64-AVRO fingerprint of the schema's Parsing Canonical Form (Avro specification
1.12, "Schema Fingerprints"), so every site computes the same one, and it fits the wire format's signed 32 bits.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from headrace.schemas.avro_guard import FieldPlan, has_array, plan_of

_FILE_NAME = re.compile(r"(?P<subject>[a-z_]+)\.v(?P<version>[0-9]+)\.avsc")


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one schema.

    `published` is the schema as other tools read it; `parsed` has no logical types, so that an invalid timestamp
    reaches validation as a number instead of failing in the decoder. `fields` is the plan of `check_fields`; a
    schema with an array has none, because `check_arrays` checks its fields too.
    """

    id: int
    subject: str
    version: int
    name: str
    published: dict[str, Any]
    parsed: Any
    has_array: bool
    fields: FieldPlan


class Registry:
    """All versions of all schemas in a folder of files named `subject.vN.avsc`."""

    def __init__(self, folder: Traversable) -> None:
        self._by_id: dict[int, Schema] = {}
        self._newest: dict[str, Schema] = {}
        for schema in sorted(_read(folder), key=lambda schema: schema.version):
            twin = self._by_id.setdefault(schema.id, schema)
            if twin is not schema:
                raise ValueError(f"{schema.subject} v{schema.version} has the id of {twin.subject} v{twin.version}")
            self._newest[schema.name] = schema

    def by_id(self, schema_id: int) -> Schema | None:
        """Return the schema with this id, or None if none was ever published."""
        return self._by_id.get(schema_id)

    def newest(self, name: str) -> Schema:
        """Return the newest version of the record called `name`, for example `Frame`."""
        return self._newest[name]

    def __iter__(self) -> Iterator[Schema]:
        return iter(self._by_id.values())


def schema_id(published: dict[str, Any]) -> int:
    """Return the upper 31 bits of the schema's CRC-64-AVRO fingerprint."""
    # fastavro prints the fingerprint's bytes in little-endian order, as the single-object encoding carries them.
    printed = fingerprint(to_parsing_canonical_form(published), "CRC-64-AVRO")
    return int.from_bytes(bytes.fromhex(printed), "little") >> 33


def _read(folder: Traversable) -> Iterator[Schema]:
    for file in folder.iterdir():
        if match := _FILE_NAME.fullmatch(file.name):
            published = json.loads(file.read_text("utf-8"))
            with_array = has_array(published)
            yield Schema(
                id=schema_id(published),
                subject=match["subject"],
                version=int(match["version"]),
                name=published["name"],
                published=published,
                parsed=parse_schema(_without_logical_types(published)),
                has_array=with_array,
                fields=() if with_array else plan_of(published["fields"]),
            )


def _without_logical_types(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_logical_types(value) for key, value in node.items() if key != "logicalType"}
    if isinstance(node, list):
        return [_without_logical_types(item) for item in node]
    return node


REGISTRY = Registry(files("headrace.schemas") / "avro")
