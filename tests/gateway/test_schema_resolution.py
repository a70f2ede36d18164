"""Which schemas read each other's data, by the rules of the Avro specification 1.12 ("Schema Resolution")."""

from typing import Any

import pytest

from headrace.gateway.queries.schema_resolution import why_unreadable
from headrace.schemas.registry import REGISTRY


def record(*fields: Any, name: str = "n.R", **more: Any) -> dict[str, Any]:
    entries = [{"name": field, "type": kind, **(rest[0] if rest else {})} for field, kind, *rest in fields]
    return {"type": "record", "name": name, "fields": entries, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": [*symbols], **more}


def fixed(size: int) -> dict[str, Any]:
    return {"type": "fixed", "name": "F", "size": size}


TREE = record(("next", ["null", "n.R"]))


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        ("long", "int"),
        ("double", "int"),
        ("bytes", "string"),
        ("string", {"type": "bytes"}),
        (["null", "long"], "int"),
        ("long", ["int", "long"]),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}),
        ({"type": "map", "values": "bytes"}, {"type": "map", "values": "string"}),
        (record(("a", "int")), record(("a", "int"), ("b", "string"))),
        (record(("a", "int"), ("b", "string", {"default": ""})), record(("a", "int"))),
        (record(("a", "int", {"aliases": ["b"]})), record(("b", "int"))),
        (record(("a", "int"), name="other.R"), record(("a", "int"))),
        (record(("a", "int"), name="n.New", aliases=["R"]), record(("a", "int"))),
        (enum("a", "b"), enum("a")),
        (enum("a", default="a"), enum("a", "b")),
        (fixed(2), fixed(2)),
        (TREE, TREE),
        (record(("a", fixed(2)), ("b", "F")), record(("a", fixed(2)), ("b", "F"))),
    ],
)
def test_what_can_be_read(reader: Any, writer: Any) -> None:
    assert why_unreadable(reader, writer) is None


@pytest.mark.parametrize(
    ("reader", "writer", "reason"),
    [
        ("int", "long", "the schema: int does not read long"),
        ("int", ["int", "null"], "the schema: int does not read null"),
        (["null", "int"], "string", "the schema: no branch of the union reads string"),
        (record(("a", "int"), ("b", "string")), record(("a", "int")), "b: a new field without a default"),
        (record(("a", "int"), name="n.S"), record(("a", "int")), "the schema: n.S does not read n.R"),
        (record(("a", enum("a"))), record(("a", enum("b"))), "a: no symbol b, and no default"),
        (fixed(2), fixed(3), "the schema: the sizes differ"),
        (
            record(("a", {"type": "array", "items": record(("b", "int"), name="I")})),
            record(("a", {"type": "array", "items": record(("b", "string"), name="I")})),
            "a[].b: int does not read string",
        ),
        (record(("a", {"type": "map", "values": "int"})), record(("a", "string")), "a: map does not read string"),
    ],
)
def test_what_cannot_be_read(reader: Any, writer: Any, reason: str) -> None:
    assert why_unreadable(reader, writer) == reason


@pytest.mark.parametrize("schema", list(REGISTRY), ids=lambda schema: schema.subject)
def test_a_published_schema_reads_its_own_data(schema: Any) -> None:
    assert why_unreadable(schema.published, schema.published) is None
