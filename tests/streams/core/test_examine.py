"""What one message comes to: accepted, or refused with the code that names what is wrong with it."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.schemas.codec import encode
from headrace.schemas.digest import canonical_body, sha256_hex, staging_key, staging_prefix
from headrace.schemas.events import Cid, InputEvent, Kind, kind_of
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CAPTURED_AHEAD_US_MAX,
    CAPTURED_AT_US_MAX,
    CLIP_BYTES_MAX,
    CLIP_DURATION_US_MAX,
    CLOCK_SET_US_MIN,
    CODE_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAME_SIDE_PIXELS_MAX,
    INLINE_BYTES_MAX,
    LDO_BODY_BYTES_MAX,
    NAME_BYTES_MAX,
)
from headrace.schemas.reject import RejectCode as Code
from headrace.streams.core.delivery import UnreadableBytes, held_bytes
from headrace.streams.core.examine import AcceptedDelivery, RejectedDelivery, examine, reject
from tests.streams.streams_samples import NOW_US, cid, clip, delivery, frame, good, ldo, mp4, png, raw_delivery

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
KEY = staging_key("plant", "camera-1", "0" * 64)


def staged(event: Any, **changes: Any) -> Any:
    return replace(event, **({"body": None, "claim": KEY} | changes))


def said(**changes: Any) -> bytes:
    return orjson.dumps({"sensor_data": {}, "context": {}, "prediction": {}} | changes)


def examined(event: InputEvent, **changes: Any) -> AcceptedDelivery | RejectedDelivery:
    return examine(kind_of(event), delivery(event, **changes))


@pytest.mark.parametrize("kind", Kind)
def test_a_good_message_is_accepted_with_what_is_to_be_stored(kind: Kind) -> None:
    event = good(kind)
    result = examined(event, offset=17)
    assert isinstance(result, AcceptedDelivery)
    assert result.event == event
    assert result.message.offset == 17
    assert result.body is not None
    assert result.digest == sha256_hex(result.body)
    assert result.size_bytes == len(result.body)


@pytest.mark.parametrize("event", [cid(), ldo()])
def test_what_is_stored_of_a_small_event_is_its_canonical_body(event: Any) -> None:
    result = examined(event)
    assert isinstance(result, AcceptedDelivery)
    assert result.body == canonical_body(event)
    assert result.media_type == "application/json"


@pytest.mark.parametrize("event", [frame(), clip()])
def test_a_staged_body_is_accepted_without_its_bytes(event: Any) -> None:
    result = examined(staged(event))
    assert isinstance(result, AcceptedDelivery)
    assert result.body is None
    assert result.claim is not None
    assert result.claim.startswith(staging_prefix(event.site, event.source_id))
    assert (result.digest, result.size_bytes) == (event.sha256, event.size_bytes)


def test_of_a_body_and_a_claim_the_body_counts() -> None:
    event = frame(claim="blobs/sha256/somebody-elses")
    result = examined(event)
    assert isinstance(result, AcceptedDelivery)
    assert result.body == event.body
    assert result.claim is None


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ((("ce_id", b"7"), ("traceparent", TRACE.encode())), TRACE),
        ((("traceparent", b"nonsense"),), None),
        ((), None),
    ],
)
def test_the_trace_context_is_taken_over_where_it_is_one(headers: Any, kept: str | None) -> None:
    result = examined(cid(), headers=headers)
    assert isinstance(result, AcceptedDelivery)
    assert result.traceparent == kept


@pytest.mark.parametrize(
    "event",
    [
        cid(symbology="DataMatrix", seen_in="a" * 64),
        cid("c" * CODE_BYTES_MAX),
        cid(source_id="n" * NAME_BYTES_MAX),
        cid(captured_at_us=CLOCK_SET_US_MIN),
        cid(captured_at_us=CLOCK_SET_US_MIN - 1),
        cid(captured_at_us=0),
        cid(captured_at_us=NOW_US + CAPTURED_AHEAD_US_MAX),
        cid(sequence=0),
        ldo(clip_sha256="b" * 64),
        ldo(body=said(more={"x": 1}, ldo_id="L-1", site="plant")),
        clip(duration_us=0),
        clip(duration_us=CLIP_DURATION_US_MAX, about="L-1", attributes=b'{"lens": 3}'),
        clip(about="]d2\x1d" + "c" * (CODE_BYTES_MAX - 4)),
        frame(attributes=b"{}"),
        staged(frame(), size_bytes=FRAME_BYTES_MAX, width=FRAME_SIDE_PIXELS_MAX, height=1),
        staged(clip(), size_bytes=CLIP_BYTES_MAX),
    ],
)
def test_what_is_just_within_the_limits_is_accepted(event: InputEvent) -> None:
    assert isinstance(examined(event), AcceptedDelivery)


REFUSED: list[tuple[Code, InputEvent]] = [
    (Code.MISSING_FIELD, cid(source_id="")),
    (Code.MISSING_FIELD, cid(site="")),
    (Code.MISSING_FIELD, cid("")),
    (Code.MISSING_FIELD, cid(symbology="")),
    (Code.MISSING_FIELD, ldo("")),
    (Code.MISSING_FIELD, ldo(body=b"")),
    (Code.MISSING_FIELD, ldo(body=b"{}")),
    (Code.MISSING_FIELD, ldo(body=said(context=[]))),
    (Code.MISSING_FIELD, frame(b"", width=1, height=1)),
    (Code.MISSING_FIELD, staged(frame(), claim=None)),
    (Code.MISSING_FIELD, staged(clip(), claim="")),
    (Code.MISSING_FIELD, clip(about="")),
    (Code.FIELD_OUT_OF_RANGE, cid(source_id="n" * (NAME_BYTES_MAX + 1))),
    (Code.FIELD_OUT_OF_RANGE, cid(site="a\nb")),
    (Code.FIELD_OUT_OF_RANGE, cid(source_id="\x1b[31mred")),
    (Code.FIELD_OUT_OF_RANGE, cid(source_id="gpj.\u202eexe")),
    (Code.FIELD_OUT_OF_RANGE, cid(source_id="nul\0")),
    (Code.FIELD_OUT_OF_RANGE, cid(source_id=" camera")),
    (Code.FIELD_OUT_OF_RANGE, cid(sequence=-1)),
    (Code.FIELD_OUT_OF_RANGE, cid("c" * (CODE_BYTES_MAX + 1))),
    (Code.FIELD_OUT_OF_RANGE, cid("a\0b")),
    (Code.FIELD_OUT_OF_RANGE, ldo(body=said(ldo_id="L-2"))),
    (Code.FIELD_OUT_OF_RANGE, ldo(body=said(source_id="camera-2"))),
    (Code.FIELD_OUT_OF_RANGE, frame(media_type="image/svg+xml")),
    (Code.FIELD_OUT_OF_RANGE, frame(media_type="text/html\r\n" * 1000)),
    (Code.FIELD_OUT_OF_RANGE, frame(width=0)),
    (Code.FIELD_OUT_OF_RANGE, frame(height=-1)),
    (Code.FIELD_OUT_OF_RANGE, frame(width=FRAME_SIDE_PIXELS_MAX + 1)),
    (Code.FIELD_OUT_OF_RANGE, clip(media_type="video/x-matroska")),
    (Code.FIELD_OUT_OF_RANGE, clip(duration_us=-1)),
    (Code.FIELD_OUT_OF_RANGE, clip(duration_us=CLIP_DURATION_US_MAX + 1)),
    (Code.FIELD_OUT_OF_RANGE, clip(about="a\0b")),
    (Code.FIELD_OUT_OF_RANGE, clip(about="c" * (CODE_BYTES_MAX + 1))),
    (Code.FIELD_OUT_OF_RANGE, staged(frame(), size_bytes=0)),
    (Code.FIELD_OUT_OF_RANGE, staged(clip(), size_bytes=-1)),
    (Code.ABSURD_TIME, cid(captured_at_us=-1)),
    (Code.ABSURD_TIME, cid(captured_at_us=-(2**63))),
    (Code.ABSURD_TIME, cid(captured_at_us=NOW_US + CAPTURED_AHEAD_US_MAX + 1)),
    (Code.ABSURD_TIME, cid(captured_at_us=2**63 - 1)),
    (Code.MALFORMED_DIGEST, cid(seen_in="A" * 64)),
    (Code.MALFORMED_DIGEST, ldo(clip_sha256="a" * 63)),
    (Code.MALFORMED_DIGEST, frame(sha256="")),
    (Code.MALFORMED_DIGEST, frame(sha256="../" + "a" * 61)),
    (Code.DIGEST_MISMATCH, frame(sha256="0" * 64)),
    (Code.DIGEST_MISMATCH, clip(sha256=sha256_hex(b"other"))),
    (Code.SIZE_MISMATCH, frame(size_bytes=3)),
    (Code.SIZE_MISMATCH, frame(size_bytes=-3)),
    (Code.TOO_LARGE, ldo(body=said(more="x" * LDO_BODY_BYTES_MAX))),
    (Code.TOO_LARGE, clip(mp4(filler=bytes(INLINE_BYTES_MAX)))),
    (Code.TOO_LARGE, staged(frame(), size_bytes=FRAME_BYTES_MAX + 1)),
    (Code.TOO_LARGE, staged(clip(), size_bytes=CLIP_BYTES_MAX + 1)),
    (Code.TOO_LARGE, frame(width=20_000, height=20_000)),
    (Code.TOO_LARGE, frame(attributes=orjson.dumps({"x": "y" * ATTRIBUTES_BYTES_MAX}))),
    (Code.NOT_AN_IMAGE, frame(b"GIF89a" + bytes(40), width=1, height=1)),
    (Code.NOT_AN_IMAGE, frame(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 2, width=1, height=1)),
    (Code.IMAGE_MISMATCH, frame(media_type="image/jpeg")),
    (Code.IMAGE_MISMATCH, frame(png(4, 3), width=3, height=4)),
    (Code.NOT_A_VIDEO, clip(b"#EXTM3U\nfile:///etc/passwd\n" * 4)),
    (Code.NOT_A_VIDEO, clip(mp4()[:40])),
    (Code.NOT_JSON, ldo(body=b"{")),
    (Code.NOT_JSON, ldo(body=b"[]")),
    (Code.NOT_JSON, ldo(body=b'{"sensor_data": {"t": NaN}, "context": {}, "prediction": {}}')),
    (Code.NOT_JSON, ldo(body=said(context={"deep": orjson.Fragment(b"[" * 600 + b"]" * 600)}))),
    (Code.NOT_JSON, frame(attributes=b"null")),
    (Code.NOT_JSON, frame(attributes=b'{"a": "\\u0000"}')),
    (Code.CLAIM_REFUSED, staged(frame(), claim=staging_key("plant", "camera-2", "0" * 64))),
    (Code.CLAIM_REFUSED, staged(frame(), claim=staging_prefix("plant", "camera-1") + "../camera-2/x")),
    (Code.CLAIM_REFUSED, staged(frame(), claim=staging_prefix("plant", "camera-1") + "..")),
    (Code.CLAIM_REFUSED, staged(clip(), claim="blobs/sha256/00/00/" + "0" * 64)),
    (Code.CLAIM_REFUSED, staged(frame(source_id="a"), claim=staging_key("plant", "a/b", "0" * 64))),
    # A key that the store refuses must never reach it: it would look like a broken store and end the worker.
    *(
        (Code.CLAIM_REFUSED, staged(frame(), claim=staging_key("plant", "camera-1", name)))
        for name in ("", "a//b", "./x", "a\0b", "a\nb", "a\n", "\x1b", "ä", "%zz", "a/", "x" * 201, "x" * 1_000_000)
    ),
]


@pytest.mark.parametrize(
    ("code", "event"), REFUSED, ids=[f"{number}-{code}" for number, (code, _) in enumerate(REFUSED)]
)
def test_what_is_wrong_is_refused_with_its_code_and_one_sentence(code: Code, event: InputEvent) -> None:
    result = examined(event, offset=3)
    assert isinstance(result, RejectedDelivery)
    assert result.code is code
    assert result.message.value == encode(event)
    assert 0 < len(result.reason) < 300
    assert result.reason.isprintable()


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (Code.EMPTY_VALUE, None),
        (Code.NOT_FRAMED, b""),
        (Code.NOT_FRAMED, b"\x01\0\0\0\1rest"),
        (Code.NOT_FRAMED, b"\0\0\0\0"),
        (Code.UNKNOWN_SCHEMA, b"\0\x80\0\0\0rest"),
        (Code.WRONG_EVENT, encode(ldo())),
        (Code.UNDECODABLE, encode(cid())[:-1]),
        (Code.UNDECODABLE, encode(cid()) + b"\0"),
        (Code.UNDECODABLE, encode(cid())[:5] + b"\x80" * 9 + b"\x02" + encode(cid())[6:]),
    ],
)
def test_what_cannot_be_read_is_refused_without_an_origin(code: Code, value: bytes | None) -> None:
    result = examine(Kind.CID, raw_delivery(Kind.CID, value))
    assert isinstance(result, RejectedDelivery)
    assert (result.code, result.origin) == (code, None)


@pytest.mark.parametrize("step", ["decode", "validate", "traceparent_of"])
@pytest.mark.parametrize("error", [IndexError("raw text"), RecursionError(), ValueError("a\nb"), OverflowError()])
def test_whatever_a_message_raises_is_its_own_refusal(
    monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"headrace.streams.core.examine.{step}", fail)
    refused = examined(cid())
    assert isinstance(refused, RejectedDelivery)
    assert refused.code is Code.UNDECODABLE
    assert refused.reason == f"checking the message raised {type(error).__name__} in fail"


def test_what_the_client_could_not_read_is_refused_with_its_code_and_reason() -> None:
    value = UnreadableBytes.of(b"raw", Code.UNDECODABLE, "The batch is cut off.")
    refusal = examine(Kind.CID, raw_delivery(Kind.CID, value))
    assert isinstance(refusal, RejectedDelivery)
    assert (refusal.code, refusal.reason, refusal.origin) == (Code.UNDECODABLE, "The batch is cut off.", None)
    assert refusal.message.value == b"raw"


def test_a_message_holds_its_key_its_value_and_its_headers() -> None:
    empty = held_bytes(None, None, [("n", None)])
    assert held_bytes(b"key", b"value", [("n", b"1234")]) == empty + 3 + 5 + 4
    assert held_bytes(None, None, None) == 0 < empty


def test_a_lack_of_memory_is_not_the_messages_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("headrace.streams.core.examine.decode", fail)
    with pytest.raises(MemoryError):
        examined(cid())


@pytest.mark.parametrize(
    ("timestamp_us", "captured_at_us", "is_accepted"),
    [
        (NOW_US, NOW_US + CAPTURED_AHEAD_US_MAX, True),
        (NOW_US, NOW_US + CAPTURED_AHEAD_US_MAX + 1, False),
        (NOW_US - CAPTURED_AHEAD_US_MAX, NOW_US + 1, False),
        # A message without a time, and one whose broker's clock was never set, are not judged by it.
        (0, NOW_US, True),
        (-1000, CAPTURED_AT_US_MAX, True),
        (CLOCK_SET_US_MIN - 1, CAPTURED_AT_US_MAX + 1, False),
        (2**63 - 1, CAPTURED_AT_US_MAX, True),
        (2**63 - 1, CAPTURED_AT_US_MAX + 1, False),
    ],
)
def test_a_capture_time_is_judged_by_the_messages_own_time(
    timestamp_us: int, captured_at_us: int, is_accepted: bool
) -> None:
    result = examined(cid(captured_at_us=captured_at_us), timestamp_us=timestamp_us)
    assert isinstance(result, AcceptedDelivery) is is_accepted
    if isinstance(result, RejectedDelivery):
        assert result.code is Code.ABSURD_TIME


def test_a_refusal_names_its_source_where_the_names_are_sound() -> None:
    event = cid("")
    result = examined(event)
    assert isinstance(result, RejectedDelivery)
    assert result.origin == event


@pytest.mark.parametrize("changes", [{"source_id": "a\0b"}, {"site": ""}, {"site": "x" * 201}, {"source_id": "\u202e"}])
def test_a_refusal_names_no_source_that_could_not_be_shown(changes: dict[str, str]) -> None:
    result = examined(cid(**changes))
    assert isinstance(result, RejectedDelivery)
    assert result.origin is None


def test_a_refusal_after_the_check_keeps_message_and_origin() -> None:
    event = staged(frame())
    result = examined(event, offset=9)
    assert isinstance(result, AcceptedDelivery)
    rejected = reject(result, Code.CLAIM_MISSING, "not there")
    assert rejected == RejectedDelivery(result.message, Code.CLAIM_MISSING, "not there", event)


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "ä", "%2F", "a.b", "staging", "д" * 100, "a" * 200])
def test_a_source_of_any_name_may_claim_from_its_own_staging_area_and_no_other_can(name: str) -> None:
    key = staging_key("plant", name, "0" * 64)
    assert isinstance(examined(staged(frame(source_id=name), claim=key)), AcceptedDelivery)
    other = examined(staged(frame(source_id="other"), claim=key))
    assert isinstance(other, RejectedDelivery)
    assert other.code is Code.CLAIM_REFUSED


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(Kind), value=st.none() | st.binary(max_size=400))
@example(kind=Kind.FRAME, value=b"\0" * 5)
def test_no_bytes_at_all_make_it_raise(kind: Kind, value: bytes | None) -> None:
    assert isinstance(examine(kind, raw_delivery(kind, value)), RejectedDelivery)


@settings(max_examples=250, deadline=None)
@given(kind=st.sampled_from(Kind), data=st.data())
def test_no_change_to_a_good_message_makes_it_raise(kind: Kind, data: st.DataObject) -> None:
    value = encode(good(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value)))
        gone = data.draw(st.integers(0, 3))
        value = value[:at] + data.draw(st.binary(max_size=8)) + value[at + gone :]
    result = examine(kind, raw_delivery(kind, value))
    match result:
        case AcceptedDelivery():
            assert result.body is not None
            assert sha256_hex(result.body) == result.digest
        case RejectedDelivery():
            assert result.code in Code


NUMBERS = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(max_size=30)
ANY_EVENT = st.one_of(
    st.builds(Cid, source_id=TEXT, site=TEXT, captured_at_us=NUMBERS, sequence=NUMBERS, code=TEXT, symbology=TEXT),
    st.builds(
        frame,
        source_id=TEXT,
        captured_at_us=NUMBERS,
        width=SMALL,
        height=SMALL,
        size_bytes=NUMBERS,
        claim=st.none() | TEXT,
        attributes=st.binary(max_size=20),
    ),
    st.builds(staged, st.just(frame()), claim=st.none() | TEXT, size_bytes=NUMBERS, sha256=TEXT),
    st.builds(clip, about=st.none() | TEXT, duration_us=NUMBERS, media_type=TEXT, sha256=TEXT),
    st.builds(ldo, TEXT, body=st.binary(max_size=40), clip_sha256=st.none() | TEXT),
)


@settings(max_examples=200, deadline=None)
@given(event=ANY_EVENT)
def test_nothing_that_an_event_can_say_makes_it_raise(event: InputEvent) -> None:
    result = examine(kind_of(event), delivery(event))
    if isinstance(result, AcceptedDelivery):
        assert result.event == event
        assert result.size_bytes > 0


@pytest.mark.parametrize("kind", Kind)
def test_what_a_replay_published_is_refused_whatever_it_holds(kind: Kind) -> None:
    message = replace(delivery(good(kind)), headers=(("ce_id", b"1"), ("replay", b"an id")))
    result = examine(kind, message)
    assert isinstance(result, RejectedDelivery)
    assert (result.code, result.message) == (Code.REPLAYED, message)
