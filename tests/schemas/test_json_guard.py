"""JSON from outside: what is refused, and what its one canonical form is."""

import orjson
import pytest

from headrace.schemas.json_guard import NESTING_MAX, canonical, check_keepable, check_values, members, parse_object
from headrace.schemas.reject import RejectCode, RejectedError


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"{",
        b"nothing",
        b'{"a": NaN}',
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[1]",
        b"17",
        nested(10_000),
    ],
)
def test_what_is_no_json_object_is_rejected(hostile: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        parse_object(hostile, "body")
    assert caught.value.code == RejectCode.NOT_JSON
    assert len(caught.value.reason) < 200


@pytest.mark.parametrize("lacking", [b"{}", b'{"part": null}', b'{"part": [1]}', b'{"part": "x"}'])
def test_a_required_object_must_be_there_and_be_an_object(lacking: bytes) -> None:
    with pytest.raises(RejectedError, match="lacks the object part") as caught:
        parse_object(lacking, "body", required=("part",))
    assert caught.value.code == RejectCode.MISSING_FIELD
    assert parse_object(b'{"part": {}}', "body", required=("part",)) == {"part": {}}


def test_the_canonical_form_has_sorted_keys_and_no_space() -> None:
    assert canonical({"ü": 1.0, "a": {"c": 1, "b": []}}) == '{"a":{"b":[],"c":1},"ü":1.0}'.encode()
    with pytest.raises(RejectedError, match="surrogate"):
        canonical({"a": "\ud800"})


def test_a_document_may_be_so_deep_that_it_can_still_be_shown_within_another() -> None:
    value = parse_object(nested(NESTING_MAX), "body")
    assert orjson.loads(orjson.dumps({"records": [{"attributes": value}]}))["records"][0]["attributes"] == value
    with pytest.raises(RejectedError, match="nested more than") as caught:
        parse_object(nested(NESTING_MAX + 1), "body")
    assert caught.value.code == RejectCode.NOT_JSON
    assert parse_object(b'{"a":[' + b"[],".join([b""] * 1000) + b"[]]}", "body")


def test_members_are_as_they_are_written() -> None:
    data = b' { "a" : [1, {"x":"}"}]\t,\n"\\u0062":1.50e3,"a":123456789012345678901 } '
    assert list(members(data)) == [("a", b'[1, {"x":"}"}]'), ("b", b"1.50e3"), ("a", b"123456789012345678901")]
    assert list(members(b"{ }")) == []


def test_the_character_that_postgresql_cannot_keep_is_rejected() -> None:
    check_keepable(b'{"a": "\\\\u0000"}', "attributes")
    for hostile in (b'{"a": "\\u0000"}', b'{"a": "\\\\\\u0000"}', b'{"\\u0000": 1}'):
        with pytest.raises(RejectedError, match="U\\+0000") as caught:
            check_keepable(hostile, "attributes")
        assert caught.value.code == RejectCode.NOT_JSON


@pytest.mark.parametrize("value", ["[]", "0", '{"":0}', "[" * 50 + "]" * 50])
def test_too_many_values_are_refused_before_they_are_parsed(value: str) -> None:
    check_values(b"[" + b",".join([value.encode()] * 15) + b"]", "the text", 1000)
    with pytest.raises(RejectedError) as rejected:
        check_values(b"[" + b",".join([value.encode()] * 1001) + b"]", "the text", 1000)
    assert rejected.value.code is RejectCode.TOO_LARGE


def test_commas_in_strings_are_no_values() -> None:
    check_values(b'{"csv": "' + rb"\",[{" * 5000 + b'"}', "the text", 1000)
