"""The two walks over a message's numbers, where the codec's own schemas do not reach every branch."""

import pytest

from headrace.schemas.avro_guard import check_arrays, check_fields, has_array, plan_of
from headrace.schemas.reject import RejectedError


def record(*types: object) -> dict[str, object]:
    return {"type": "record", "name": "R", "fields": [{"name": f"f{i}", "type": kind} for i, kind in enumerate(types)]}


MAYBE_TEXT = ["null", "string"]


def test_a_plan_has_every_field_with_its_width() -> None:
    timestamp = {"type": "long", "logicalType": "timestamp-micros"}
    fields = record("string", timestamp, "boolean", "double", MAYBE_TEXT, "bytes")["fields"]
    assert plan_of(fields) == ((False, -1), (False, 0), (False, 1), (False, 8), (True, -1), (False, -1))


@pytest.mark.parametrize("union", [["string", "null"], ["null"], ["null", "string", "long"]])
def test_a_union_of_anything_but_null_and_one_type_has_no_plan(union: list[str]) -> None:
    with pytest.raises(ValueError, match="null and one other type"):
        plan_of(record(union)["fields"])


def test_an_array_has_no_plan() -> None:
    with pytest.raises(KeyError):
        plan_of(record({"type": "array", "items": "int"})["fields"])


def test_unions_behind_values_of_every_width_are_found() -> None:
    plan = plan_of(record("double", "long", ["null", "double"], MAYBE_TEXT, ["null", "long"])["fields"])
    before = bytes(8) + b"\xfe\x03"
    check_fields(plan, before + b"\x02" + bytes(8) + b"\x02\x02a" + b"\x02\x80\x01", 0)
    check_fields(plan, before + b"\x00\x00\x00", 0)
    for hostile in (b"\x01\x00\x00", b"\x00\x01\x00", b"\x00\x00\x03", b"\x02" + bytes(8) + b"\x04"):
        with pytest.raises(RejectedError, match="branch"):
            check_fields(plan, before + hostile, 0)


@pytest.mark.parametrize("last_byte", [0x02, 0x40, 0x7E, 0x7F])
def test_a_number_with_bits_beyond_its_64th_is_refused_wherever_it_stands(last_byte: int) -> None:
    beyond = b"\x82" + b"\x80" * 8 + bytes([last_byte])
    for fields in (["string", MAYBE_TEXT], ["long"], [MAYBE_TEXT, "bytes"]):
        before = b"\x00" if fields[0] == MAYBE_TEXT else b""
        with pytest.raises(RejectedError, match="64 bits"):
            check_fields(plan_of(record(*fields)["fields"]), before + beyond + b"a\x00", 0)
    with pytest.raises(RejectedError, match="64 bits"):
        check_arrays(record({"type": "array", "items": "long"}), b"\x02" + beyond + b"\x00", 0)


def test_arrays_and_maps_are_seen() -> None:
    assert has_array(record("int", {"type": "array", "items": "int"}))
    assert has_array(record({"type": "map", "values": "int"}))
    assert not has_array(record({"type": "long", "logicalType": "timestamp-micros"}, MAYBE_TEXT))


def test_arrays_behind_values_of_every_width_are_counted() -> None:
    array = {"type": "array", "items": ["null", "float"]}
    schema = record("null", "boolean", "float", "double", "bytes", MAYBE_TEXT, array)
    before = b"\x01" + bytes(4) + bytes(8) + b"\x02x" + b"\x02\x02y"
    check_arrays(schema, before + b"\x04\x00\x02" + bytes(4) + b"\x00", 0)
    for hostile in (b"", b"\x04\x00", b"\x04\x00\x02" + bytes(3), b"\x01", b"\x80" * 10, b"\xfe\xff\xff\xff\x0f"):
        with pytest.raises(RejectedError):
            check_arrays(schema, before + hostile, 0)
