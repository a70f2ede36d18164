"""Identity: which events are one record, and what each id and key is made of."""

import hashlib
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.schemas.digest import (
    blob_key,
    canonical_body,
    clip_of,
    dead_letter_id,
    derived_key,
    erased_key,
    event_id,
    is_digest,
    pack_key,
    record_id,
    result_id,
    sha256_hex,
    staging_key,
    staging_prefix,
)
from headrace.schemas.events import Cid, Kind, Ldo, singular
from headrace.schemas.reject import RejectCode, RejectedError

ORIGIN = {"source_id": "camera-1", "site": "plant", "captured_at_us": 1_700_000_000_000_000, "sequence": 7}
CID = Cid(**ORIGIN, code="C-1")
LDO = Ldo(**ORIGIN, ldo_id="L-1", body=b'{"sensor_data": {}, "context": {"b": 1, "a": 2}, "prediction": {}}')
DIGEST = hashlib.sha256(b"x").hexdigest()


def digest(event: Cid | Ldo) -> str:
    return sha256_hex(canonical_body(event))


def test_a_digest_is_sha256_in_lower_case() -> None:
    assert sha256_hex(b"x") == sha256_hex(memoryview(b"x")) == DIGEST
    assert is_digest(DIGEST)


@pytest.mark.parametrize("text", ["", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "g" * 64, "0" * 63 + "\n", "a" * 40])
def test_anything_else_is_no_digest(text: str) -> None:
    assert not is_digest(text)


def test_the_same_scan_sent_twice_is_one_record() -> None:
    assert digest(CID) == digest(replace(CID, sequence=8))


@pytest.mark.parametrize(
    "changed",
    [
        {"code": "C-2"},
        {"captured_at_us": ORIGIN["captured_at_us"] + 1},
        {"site": "plant-2"},
        {"source_id": "camera-2"},
        {"symbology": "DataMatrix"},
        {"seen_in": DIGEST},
    ],
)
def test_another_scan_is_another_record(changed: dict[str, object]) -> None:
    assert digest(CID) != digest(replace(CID, **changed))


def test_a_body_is_kept_as_it_is_written() -> None:
    assert canonical_body(LDO) == (
        b'{"captured_at_us":1700000000000000,"clip_sha256":null,"kind":"ldo","ldo_id":"L-1","site":"plant",'
        b'"source_id":"camera-1","sensor_data": {}, "context": {"b": 1, "a": 2}, "prediction": {}}'
    )
    assert canonical_body(LDO) == canonical_body(replace(LDO, body=b"\n " + LDO.body + b"\r\n", sequence=9))


def with_number(number: str) -> Ldo:
    return replace(LDO, body=f'{{"sensor_data":{{"n":{number}}},"context":{{}},"prediction":{{}}}}'.encode())


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("123456789012345678901", "123456789012345678902"),
        ("0.1", "0.10000000000000000001"),
        ("1e-400", "0.0"),
        ('1,"n":2', "2"),
    ],
)
def test_no_two_ldos_become_one_record(first: str, other: str) -> None:
    assert digest(with_number(first)) != digest(with_number(other))
    assert f'"n":{first}}}'.encode() in canonical_body(with_number(first))


OURS = {"captured_at_us", "clip_sha256", "kind", "ldo_id", "site", "source_id"}
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(json.dumps)
VALUES = st.recursive(
    NUMBERS | TEXTS | st.sampled_from(["true", "false", "null"]),
    lambda sample: (
        st.lists(sample, max_size=4).map(lambda many: f"[{' , '.join(many)}]")
        | st.lists(st.tuples(TEXTS, sample), max_size=4).map(
            lambda many: "{" + ",".join(f"{name}: {value}" for name, value in many) + "}"
        )
    ),
    max_leaves=20,
)


@given(st.lists(st.tuples(TEXTS, VALUES), max_size=5), st.sampled_from(["", " ", "\n\t"]))
def test_what_is_stored_says_what_the_body_said(more: list[tuple[str, str]], space: str) -> None:
    own = ['"sensor_data":{"big":123456789012345678901}', '"context":{}', '"prediction":{}']
    body = "{" + space + ",".join(own + [f"{name}{space}:{value}" for name, value in more]) + space + "}"

    def pairs(data: str | bytes) -> Any:
        return json.loads(data, parse_int=str, parse_float=str, object_pairs_hook=lambda members: members)

    assume(not OURS.intersection(json.loads(body)))
    stored = canonical_body(replace(LDO, body=body.encode()))
    stored_pairs = pairs(stored)
    assert {name for name, _ in stored_pairs[:6]} == OURS
    assert stored_pairs[6:] == pairs(body)


@pytest.mark.parametrize(
    "changed",
    [
        {"ldo_id": "L-2"},
        {"clip_sha256": DIGEST},
        {"body": b'{"sensor_data": {}, "context": {"a": 2}, "prediction": {}}'},
    ],
)
def test_an_ldo_that_says_something_else_is_another_record(changed: dict[str, object]) -> None:
    assert digest(LDO) != digest(replace(LDO, **changed))


def test_a_body_may_repeat_what_its_message_says_and_then_it_stands_only_there() -> None:
    body = b'{"ldo_id": "\\u004c-1", "site": "plant", "sensor_data": {}, "context": {}, "prediction": {}}'
    stored = canonical_body(replace(LDO, body=body))
    assert (
        stored
        == b'{"captured_at_us":1700000000000000,"clip_sha256":null,"kind":"ldo","source_id":"camera-1",' + body[1:]
    )
    all_of_it = canonical_body(LDO)
    assert canonical_body(replace(LDO, body=all_of_it)) == all_of_it


@pytest.mark.parametrize(
    "contradiction",
    [
        b'"ldo_id": "L-2"',
        b'"site": "other"',
        b'"kind": "cid"',
        b'"source_id": 1',
        b'"site": "other", "site": "plant"',
        b'"captured_at_us": 1700000000000000.00000001',
    ],
)
def test_a_body_that_contradicts_its_message_is_rejected(contradiction: bytes) -> None:
    body = b'{"sensor_data": {}, "context": {}, "prediction": {}, ' + contradiction + b"}"
    with pytest.raises(RejectedError) as caught:
        canonical_body(replace(LDO, body=body))
    assert caught.value.code == RejectCode.FIELD_OUT_OF_RANGE


def test_ids_repeat_and_differ_where_they_should() -> None:
    record = record_id(Kind.FRAME, DIGEST)
    assert record == record_id(Kind.FRAME, DIGEST) != record_id(Kind.CLIP, DIGEST)
    announcements = [event_id(record), event_id(record, "north"), event_id(record, "south")]
    results = [result_id(name, record, of) for name in ("preprocessing", "perception") for of in announcements]
    ids = {record, *announcements, *results}
    assert len(ids) == 10
    assert {uuid.version for uuid in ids} == {5}


def test_a_dead_letters_id_is_made_of_its_origin_and_its_bytes() -> None:
    ids = [
        dead_letter_id(*origin)
        for origin in (("t", 0, 1, b"x"), ("t", 0, 1, b"y"), ("t", 0, 1, None), ("t", 0, 2, b"x"), ("t", 1, 1, b"x"))
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == dead_letter_id("t", 0, 1, b"x")


def test_ids_never_change() -> None:
    # Ids that were announced once have to be the same for ever, so these stand here as values.
    assert record_id(Kind.FRAME, DIGEST) == UUID("09c746f4-e85d-55e9-906b-4d1b2f1e7684")
    assert event_id(record_id(Kind.FRAME, DIGEST)) == UUID("1fe38eca-fc4b-5ced-973b-d407059fe9f1")
    assert digest(CID) == "bcf91fe86a89ad03b7f781e595c1919223bfebdafb31d2d33a22e9bae02f522f"
    assert digest(LDO) == "e5f3575521a3e3bc16aa0daf9c53c5e4b77d975e8b40fef3046b1d58dc78593a"


def test_keys_name_the_bytes_by_their_digest() -> None:
    assert derived_key(UUID(int=0xAB << 120), "a" * 64) == (
        f"derived/records/ab/ab000000-0000-0000-0000-000000000000/{'a' * 64}"
    )
    assert blob_key(DIGEST) == f"blobs/sha256/{DIGEST[:2]}/{DIGEST[2:4]}/{DIGEST}"
    assert erased_key(DIGEST) == f"erased/sha256/{DIGEST[:2]}/{DIGEST[2:4]}/{DIGEST}"
    assert pack_key(DIGEST) == f"packs/sha256/{DIGEST[:2]}/{DIGEST[2:4]}/{DIGEST}.tar"
    assert staging_key("plant", "camera-1", DIGEST) == f"staging/plant/camera-1/{DIGEST}"


@pytest.mark.parametrize(
    ("name", "segment"),
    [("..", "%2E%2E"), ("a/b", "a%2Fb"), ("Straße", "Stra%C3%9Fe"), ("%2F", "%252F"), ("a b", "a%20b"), ("_-", "_-")],
)
def test_a_name_is_one_harmless_segment_of_a_staging_key(name: str, segment: str) -> None:
    assert staging_prefix(name, "s") == f"staging/{segment}/s/"


@pytest.mark.parametrize("name", ["д" * 90, "д" * 43, "日本" * 33, "a" * 256, "/" * 86])
def test_a_name_too_long_for_a_segment_is_its_digest(name: str) -> None:
    assert staging_prefix("plant", name) == f"staging/plant/~{sha256_hex(name.encode())}/"


@pytest.mark.parametrize("name", ["д" * 42, "a" * 255, "/" * 85])
def test_the_longest_name_that_is_a_segment_is_written_out(name: str) -> None:
    assert "~" not in staging_prefix("plant", name)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=2, max_size=2, unique=True))
def test_no_two_sources_share_a_staging_prefix(sources: list[tuple[str, str]]) -> None:
    first, other = (staging_prefix(*source) for source in sources)
    assert not first.startswith(other)
    assert not other.startswith(first)


@pytest.mark.parametrize(
    ("body", "clip"),
    [
        (b'{"clip_sha256": "%s"}' % (b"a" * 64), "a" * 64),
        (b'{"clip_sha256": "a"}', None),
        (b'{"clip_sha256": 7}', None),
        (b"{}", None),
        (b"[]", None),
        (b"no JSON", None),
    ],
)
def test_the_clip_of_an_ldo_is_what_its_stored_form_names(body: bytes, clip: str | None) -> None:
    assert clip_of(body) == clip


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_is_named_in_the_singular_or_the_plural(kind: Kind) -> None:
    assert singular(kind) == singular(f"{kind}s") == kind
