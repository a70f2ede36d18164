"""The published schemas: their ids, their shape, and how they may grow."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.codec import decode, encode
from headrace.schemas.events import Frame, Origin
from headrace.schemas.registry import REGISTRY, Registry
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import TOPICS

AVRO = files("headrace.schemas") / "avro"
INPUTS = sorted({topic.event.__name__ for name, topic in TOPICS.items() if name.startswith("edge.")})
FRAME = Frame(
    source_id="camera-1",
    site="plant",
    captured_at_us=1,
    sequence=2,
    sha256="0" * 64,
    media_type="image/png",
    width=1,
    height=2,
    size_bytes=3,
    body=b"abc",
)


def canonical(node: Any, namespace: str = "") -> Any:
    """Parsing Canonical Form as the Avro specification 1.12 defines it, as a tree whose keys are in order."""
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return [canonical(branch, namespace) for branch in node]
    match node["type"]:
        case "record":
            space = node.get("namespace", namespace)
            return {
                "name": f"{space}.{node['name']}",
                "type": "record",
                "fields": [{"name": f["name"], "type": canonical(f["type"], space)} for f in node["fields"]],
            }
        case "array":
            return {"type": "array", "items": canonical(node["items"], namespace)}
        case inner:
            return canonical(inner, namespace)


def crc_64_avro(data: bytes) -> int:
    """The fingerprint of the specification's section "Schema Fingerprints", bit by bit instead of by table."""
    empty = 0xC15D213AA4D7A795
    value = empty
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
    return value


def test_the_fingerprint_is_that_of_avros_own_tests() -> None:
    # From share/test/data/schema-tests.txt of Apache Avro.
    assert crc_64_avro(b'"null"') == 0x63DD24E7CC258F8A
    assert crc_64_avro(b'"int"') == 0x7275D51A3F395C8F


@pytest.mark.parametrize("schema", list(REGISTRY), ids=lambda schema: schema.subject)
def test_every_id_is_the_upper_31_bits_of_the_schemas_fingerprint(schema: Any) -> None:
    text = json.dumps(canonical(schema.published), separators=(",", ":"))
    assert schema.id == crc_64_avro(text.encode()) >> 33
    assert 0 < schema.id < 2**31


def test_no_published_schema_has_changed_or_gone() -> None:
    # To publish a schema, add its file and its line; a line that stands there is never changed.
    published = json.loads((AVRO / "published.json").read_text())
    assert {f"{schema.subject}.v{schema.version}.avsc": schema.id for schema in REGISTRY} == published
    assert {file.name for file in AVRO.iterdir()} == {*published, "published.json"}


@pytest.mark.parametrize("name", INPUTS)
def test_input_schemas_hold_no_arrays_maps_or_recursion(name: str) -> None:
    for field in REGISTRY.newest(name).published["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        plain = {kind["type"] if isinstance(kind, dict) else kind for kind in kinds}
        assert plain <= {"null", "int", "long", "double", "string", "bytes"}, field["name"]


@pytest.mark.parametrize("schema", list(REGISTRY), ids=lambda schema: schema.subject)
def test_every_schema_and_field_says_what_it_means(schema: Any) -> None:
    assert schema.published["doc"]
    assert all(field["doc"].endswith(".") for field in schema.published["fields"])


def test_every_schema_is_carried_by_a_topic() -> None:
    assert {schema.name for schema in REGISTRY} == {topic.event.__name__ for topic in TOPICS.values()}


def with_v2(folder: Path) -> Registry:
    """The published schemas and a second version of Frame, which has one more field with a default."""
    for file in AVRO.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    grown = json.loads((AVRO / "frame.v1.avsc").read_text())
    grown["fields"].insert(3, {"name": "exposure_us", "type": "long", "default": 125, "doc": "Exposure."})
    (folder / "frame.v2.avsc").write_text(json.dumps(grown))
    return Registry(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameV2(Origin):
    sha256: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    exposure_us: int
    body: bytes | None
    claim: str | None
    attributes: bytes


FrameV2.__name__ = "Frame"


def test_what_an_older_version_wrote_is_read_with_the_new_fields_default(tmp_path: Path) -> None:
    grown = with_v2(tmp_path)
    read = decode(encode(FRAME), FrameV2, grown)
    assert (read.exposure_us, read.captured_at_us, read.body) == (125, 1, b"abc")


def test_the_newest_version_is_written_and_read(tmp_path: Path) -> None:
    grown = with_v2(tmp_path)
    raw = encode(FRAME, grown)
    newest = grown.newest("Frame")
    assert (newest.version, int.from_bytes(raw[1:5], "big")) == (2, newest.id)
    assert newest.id != REGISTRY.newest("Frame").id
    assert decode(raw, FrameV2, grown).exposure_us == 125


def test_a_version_from_the_future_is_rejected_by_name(tmp_path: Path) -> None:
    raw = encode(FRAME, with_v2(tmp_path))
    with pytest.raises(RejectedError) as caught:
        decode(raw, Frame)
    assert caught.value.code == RejectCode.UNKNOWN_SCHEMA


def test_bytes_of_an_older_version_that_do_not_follow_it_are_rejected(tmp_path: Path) -> None:
    grown = with_v2(tmp_path)
    for hostile in (encode(FRAME)[:20], encode(FRAME) + b"\x00"):
        with pytest.raises(RejectedError) as caught:
            decode(hostile, FrameV2, grown)
        assert caught.value.code == RejectCode.UNDECODABLE


def test_two_schemas_with_one_id_are_refused(tmp_path: Path) -> None:
    for name in ("frame.v1.avsc", "frame.v2.avsc"):
        (tmp_path / name).write_bytes((AVRO / "frame.v1.avsc").read_bytes())
    with pytest.raises(ValueError, match="frame v2 has the id of frame v1"):
        Registry(tmp_path)
