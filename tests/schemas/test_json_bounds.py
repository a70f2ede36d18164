"""JSON from outside: what is refused, and what its one canonical form is."""

import pytest

from schemas.json_bounds import canonical, check_keepable, parse_object
from schemas.reject import RejectCode, Rejected


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
    with pytest.raises(Rejected) as caught:
        parse_object(hostile, "body")
    assert caught.value.code == RejectCode.NOT_JSON
    assert len(caught.value.reason) < 200


@pytest.mark.parametrize("lacking", [b"{}", b'{"part": null}', b'{"part": [1]}', b'{"part": "x"}'])
def test_a_required_object_must_be_there_and_be_an_object(lacking: bytes) -> None:
    with pytest.raises(Rejected, match="lacks the object part") as caught:
        parse_object(lacking, "body", required=("part",))
    assert caught.value.code == RejectCode.MISSING_FIELD
    assert parse_object(b'{"part": {}}', "body", required=("part",)) == {"part": {}}


def test_the_canonical_form_has_sorted_keys_and_no_space() -> None:
    assert canonical(parse_object('{ "ü": 1.0, "a": {"c": 1, "b": []} }'.encode(), "body"), "body") == (
        '{"a":{"b":[],"c":1},"ü":1.0}'.encode()
    )


def test_what_cannot_be_written_again_is_rejected() -> None:
    assert canonical(parse_object(nested(200), "body"), "body") == nested(200)
    with pytest.raises(Rejected, match="nested more than") as caught:
        canonical(parse_object(nested(300), "body"), "body")
    assert caught.value.code == RejectCode.NOT_JSON


def test_the_character_that_postgresql_cannot_keep_is_rejected() -> None:
    check_keepable(b'{"a": "\\\\u0000"}', "attributes")
    for hostile in (b'{"a": "\\u0000"}', b'{"a": "\\\\\\u0000"}', b'{"\\u0000": 1}'):
        with pytest.raises(Rejected, match="U\\+0000") as caught:
            check_keepable(hostile, "attributes")
        assert caught.value.code == RejectCode.NOT_JSON
