"""Events to bytes and back, and what hostile bytes come to."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas import events
from headrace.schemas.codec import decode, encode
from headrace.schemas.events import Cid, Clip, DeadLetter, Frame, Ldo, PerceivedFrame, Region
from headrace.schemas.limits import ARRAY_ITEMS_MAX
from headrace.schemas.registry import REGISTRY
from headrace.schemas.reject import RejectCode, RejectedError

EVENTS = (
    events.Cid,
    events.Frame,
    events.Clip,
    events.Ldo,
    events.Ingested,
    events.DeadLetter,
    events.PreprocessedFrame,
    events.PerceivedFrame,
    events.CaptureRequest,
)
TEXT = st.text(max_size=40)
VALUES = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "string": TEXT,
    "bytes": st.binary(max_size=200),
    "double": st.floats(allow_nan=False),
}
ORIGIN = {"source_id": "camera-1", "site": "plant", "captured_at_us": 1_700_000_000_000_000, "sequence": 7}
CID = Cid(**ORIGIN, code="C-1", seen_in="ab" * 32)
FRAME = Frame(**ORIGIN, sha256="0" * 64, media_type="image/png", width=1, height=2, size_bytes=3, body=b"abc")
PERCEIVED = PerceivedFrame(
    **ORIGIN,
    event_id="e",
    record_id="r",
    digest="d",
    previous_digest=None,
    score=0.5,
    regions=(Region(1, 2, 3, 4, 0.5), Region(5, 6, 7, 8, 0.25)),
)
SAMPLES = (
    CID,
    FRAME,
    Clip(**ORIGIN, sha256="0" * 64, duration_us=5, size_bytes=3, claim="staging/a/b/c", about="C-1"),
    Ldo(**ORIGIN, ldo_id="L-1", body=b"{}"),
    DeadLetter(
        event_id="e",
        code="empty_value",
        reason="r",
        topic="t",
        partition=0,
        offset=1,
        timestamp_us=2,
        key=None,
        value=b"v",
        headers=b"[]",
        rejected_at_us=3,
    ),
    PERCEIVED,
)


def number(value: int) -> bytes:
    """An Avro long, as its specification writes one."""
    zigzag = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def values_of(kind: object) -> st.SearchStrategy:
    match kind:
        case ["null", other]:
            return st.none() | values_of(other)
        case {"type": "array", "items": {"name": "Region"}}:
            region = st.builds(Region, *(VALUES["int"] for _ in range(4)), VALUES["double"])
            return st.lists(region, max_size=5).map(tuple)
        case {"type": inner}:
            return values_of(inner)
        case _:
            return VALUES[kind]


def any_of(event: type) -> st.SearchStrategy:
    fields = REGISTRY.newest(event.__name__).published["fields"]
    renamed = {"captured_at", "ingested_at", "rejected_at", "requested_at", "timestamp"}
    named = {f"{f['name']}_us" if f["name"] in renamed else f["name"]: values_of(f["type"]) for f in fields}
    return st.builds(event, **named)


def rejection(raw: bytes | None, expected: type) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        decode(raw, expected)
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize("event", EVENTS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_was_encoded_is_decoded(event: type, data: st.DataObject) -> None:
    value = data.draw(any_of(event))
    assert decode(encode(value), event) == value


def test_the_value_begins_with_zero_and_the_schema_id() -> None:
    raw = encode(FRAME)
    assert raw[0] == 0
    assert REGISTRY.by_id(int.from_bytes(raw[1:5], "big")) is REGISTRY.newest("Frame")


@pytest.mark.parametrize(
    "event",
    [
        Cid(**ORIGIN | {"sequence": 2**63}, code="C"),
        Cid(**ORIGIN, code=None),
        Cid(**ORIGIN, code="\ud800"),
        Ldo(**ORIGIN, ldo_id="L", body=17),
    ],
)
def test_a_field_that_does_not_fit_is_an_error_of_the_writer(event: Cid | Ldo) -> None:
    with pytest.raises(ValueError, match="does not fit its schema"):
        encode(event)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (None, RejectCode.EMPTY_VALUE),
        (b"", RejectCode.NOT_FRAMED),
        (b"\x00\x00\x00\x00", RejectCode.NOT_FRAMED),
        (b"\x01" + encode(CID)[1:], RejectCode.NOT_FRAMED),
        (b"\xc3\x01" + encode(CID)[1:], RejectCode.NOT_FRAMED),
        (b'{"code": "C-1"}', RejectCode.NOT_FRAMED),
        (b"\x00\x00\x00\x00\x00", RejectCode.UNKNOWN_SCHEMA),
        (b"\x00\x80\x00\x00\x00" + encode(CID)[5:], RejectCode.UNKNOWN_SCHEMA),
        (b"\x00\xff\xff\xff\xff" + encode(CID)[5:], RejectCode.UNKNOWN_SCHEMA),
        (encode(FRAME), RejectCode.WRONG_EVENT),
        (encode(CID)[:5], RejectCode.UNDECODABLE),
        (encode(CID) + b"\x00", RejectCode.UNDECODABLE),
    ],
)
def test_what_is_no_event_of_the_topic_is_rejected_with_its_code(raw: bytes | None, code: RejectCode) -> None:
    assert rejection(raw, Cid).code == code


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_truncation_is_rejected(sample: events.Event) -> None:
    raw = encode(sample)
    for length in range(5, len(raw)):
        assert rejection(raw[:length], type(sample)).code == RejectCode.UNDECODABLE


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
@settings(max_examples=80, deadline=None)
@given(garbage=st.binary(max_size=300), at=st.integers(0, 300))
def test_garbage_is_an_event_or_rejected_and_nothing_else(sample: events.Event, garbage: bytes, at: int) -> None:
    raw = encode(sample)
    for hostile in (garbage, raw[:5] + garbage, raw[: 5 + at] + garbage, raw[: 5 + at] + garbage + raw[5 + at :]):
        try:
            assert isinstance(decode(hostile, type(sample)), type(sample))
        except RejectedError:
            continue


# Each puts one absurd number where an Avro reader expects a length, a count or a branch.
LENGTHS = (-1, -(2**63), 2**31, 2**60, 2**63 - 1)
HEAD = encode(CID)[:5]
ORIGIN_BYTES = encode(CID)[5 : encode(CID).index(b"\x06C-1")]
PERCEIVED_RAW = encode(PERCEIVED)
REGIONS_AT = PERCEIVED_RAW.rindex(number(2) + number(1) + number(2) + number(3) + number(4))


@pytest.mark.parametrize("length", LENGTHS)
def test_an_absurd_string_length_is_rejected(length: int) -> None:
    assert rejection(HEAD + number(length) + b"x" * 100, Cid).code == RejectCode.UNDECODABLE
    assert rejection(PERCEIVED_RAW[:5] + number(length) + b"x" * 100, PerceivedFrame).code == RejectCode.UNDECODABLE


@pytest.mark.parametrize("branch", [-1, -2, -3, 2, 3, 2**31, 2**62, -(2**63)])
def test_a_branch_that_does_not_exist_is_rejected(branch: int) -> None:
    whole = HEAD + ORIGIN_BYTES + b"\x06C-1\x0cQRCode"
    assert decode(whole + number(1) + b"\x04ab", Cid).seen_in == "ab"
    assert rejection(whole + number(branch) + b"\x04ab", Cid).code == RejectCode.UNDECODABLE
    assert rejection(whole + number(branch), Cid).code == RejectCode.UNDECODABLE
    no_error = PERCEIVED_RAW[:-1]
    assert rejection(no_error + number(branch) + b"\x04ab", PerceivedFrame).code == RejectCode.UNDECODABLE


@pytest.mark.parametrize("count", [ARRAY_ITEMS_MAX + 1, 2**31, 2**60, 2**63 - 1, -1, -(2**31), -(2**63)])
def test_an_absurd_count_of_items_is_rejected(count: int) -> None:
    before, after = PERCEIVED_RAW[:REGIONS_AT], PERCEIVED_RAW[REGIONS_AT + 1 :]
    assert decode(before + number(2) + after, PerceivedFrame) == PERCEIVED
    assert rejection(before + number(count) + after, PerceivedFrame).code == RejectCode.UNDECODABLE


def test_many_small_blocks_do_not_get_past_the_limit_on_items() -> None:
    item = PERCEIVED_RAW[REGIONS_AT + 1 : REGIONS_AT + 13]
    blocks = (number(1) + item) * (ARRAY_ITEMS_MAX + 1) + number(0) + number(0)
    assert "items" in rejection(PERCEIVED_RAW[:REGIONS_AT] + blocks, PerceivedFrame).reason


@pytest.mark.parametrize("sample", [CID, PERCEIVED], ids=["no array", "array"])
def test_a_number_longer_than_ten_bytes_is_rejected(sample: events.Event) -> None:
    raw = encode(sample)
    begins = raw[5 : raw.index(number(ORIGIN["captured_at_us"]))]
    for padding in (10, 11, 100_000):
        long = b"\x80" * padding + b"\x00"
        assert rejection(raw[:5] + begins + long + raw[5 + len(begins) + 8 :], type(sample)).code == (
            RejectCode.UNDECODABLE
        )


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_length_with_bits_beyond_its_64th_is_rejected(sample: events.Event) -> None:
    raw = encode(sample)
    beyond = bytes([raw[5] | 0x80]) + b"\x80" * 8 + b"\x02"
    assert rejection(raw[:5] + beyond + raw[6:], type(sample)).code == RejectCode.UNDECODABLE


def test_text_that_is_not_utf8_is_rejected() -> None:
    assert rejection(HEAD + b"\x04\xff\xfe" + encode(CID)[5:], Cid).code == RejectCode.UNDECODABLE


@pytest.mark.parametrize(
    "hostile",
    [
        HEAD + number(2**60) + b"x" * 1_000_000,
        HEAD + number(-5) + b"x" * 1_000_000,
        HEAD + b"\xff" * 1_000_000,
        HEAD + b"\x00" * 1_000_000,
        PERCEIVED_RAW[:REGIONS_AT] + number(2**31) + b"\x00" * 1_000_000,
        PERCEIVED_RAW[:REGIONS_AT] + number(-(2**40)) + number(2**40) + b"\x00" * 1_000_000,
    ],
)
def test_memory_is_bounded_by_the_message(hostile: bytes) -> None:
    expected = Cid if hostile.startswith(HEAD) else PerceivedFrame
    tracemalloc.start()
    try:
        rejection(hostile, expected)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(hostile)
