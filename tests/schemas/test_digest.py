"""Identity: which events are one record, and what each id and key is made of."""

import hashlib
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.digest import (
    blob_key,
    canonical_body,
    dead_letter_id,
    event_id,
    is_digest,
    pack_key,
    record_id,
    result_id,
    sha256_hex,
    staging_key,
    staging_prefix,
)
from schemas.events import Cid, Kind, Ldo
from schemas.reject import RejectCode, Rejected

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


def test_space_and_order_of_keys_do_not_make_another_ldo() -> None:
    compact = b'{"prediction":{},"context":{"a":2,"b":1},"sensor_data":{}}'
    assert canonical_body(LDO) == canonical_body(replace(LDO, body=compact, sequence=9))
    assert canonical_body(LDO).startswith(b'{"captured_at_us":1700000000000000,"clip_sha256":null,"context":{"a":2,')


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


def test_a_body_may_repeat_what_its_message_says() -> None:
    body = b'{"ldo_id": "L-1", "site": "plant", "sensor_data": {}, "context": {}, "prediction": {}}'
    assert b'"ldo_id":"L-1"' in canonical_body(replace(LDO, body=body))


@pytest.mark.parametrize("contradiction", [b'"ldo_id": "L-2"', b'"site": "other"', b'"kind": "cid"', b'"source_id": 1'])
def test_a_body_that_contradicts_its_message_is_rejected(contradiction: bytes) -> None:
    body = b'{"sensor_data": {}, "context": {}, "prediction": {}, ' + contradiction + b"}"
    with pytest.raises(Rejected) as caught:
        canonical_body(replace(LDO, body=body))
    assert caught.value.code == RejectCode.FIELD_OUT_OF_RANGE


def test_ids_repeat_and_differ_where_they_should() -> None:
    record = record_id(Kind.FRAME, DIGEST)
    assert record == record_id(Kind.FRAME, DIGEST) != record_id(Kind.CLIP, DIGEST)
    ids = {record, event_id(record), result_id("preprocessing", record), result_id("perception", record)}
    assert len(ids) == 4
    assert {one.version for one in ids} == {5}


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
    assert digest(LDO) == "4feb0417efa8c6707509cedc201383ce65764c487679423a76f864861e1d43e6"


def test_keys_name_the_bytes_by_their_digest() -> None:
    assert blob_key(DIGEST) == f"blobs/sha256/{DIGEST[:2]}/{DIGEST[2:4]}/{DIGEST}"
    assert pack_key(DIGEST) == f"packs/sha256/{DIGEST[:2]}/{DIGEST[2:4]}/{DIGEST}.tar"
    assert staging_key("plant", "camera-1", DIGEST) == f"staging/plant/camera-1/{DIGEST}"


@pytest.mark.parametrize(
    ("name", "segment"),
    [("..", "%2E%2E"), ("a/b", "a%2Fb"), ("Straße", "Stra%C3%9Fe"), ("%2F", "%252F"), ("a b", "a%20b"), ("_-", "_-")],
)
def test_a_name_is_one_harmless_segment_of_a_staging_key(name: str, segment: str) -> None:
    assert staging_prefix(name, "s") == f"staging/{segment}/s/"


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=2, max_size=2, unique=True))
def test_no_two_sources_share_a_staging_prefix(sources: list[tuple[str, str]]) -> None:
    one, other = (staging_prefix(*source) for source in sources)
    assert not one.startswith(other)
    assert not other.startswith(one)
