"""What may be ingested: one set of rules, for whoever publishes and for the worker."""

import pickle
import struct
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from zlib import crc32

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.producers.outgoing import Dispatch
from headrace.runtime.errors import HeadraceError
from headrace.schemas.codec import decode
from headrace.schemas.digest import staging_key
from headrace.schemas.events import InputEvent
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CAPTURED_AHEAD_US_MAX,
    CLIP_BYTES_MAX,
    CLIP_DURATION_US_MAX,
    CLOCK_SET_US_MIN,
    CODE_BYTES_MAX,
    FRAME_BYTES_MAX,
    FRAME_SIDE_PIXELS_MAX,
    INLINE_BYTES_MAX,
    JPEG_SCANS_MAX,
    LDO_BODY_BYTES_MAX,
    NAME_BYTES_MAX,
)
from headrace.schemas.media_probe import ImageHeader, VideoHeader, probe_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_captured_at, check_code, check_header, check_name, validate
from tests.streams.streams_samples import NOW_US, cid, clip, delivery, frame, ldo, mp4, png

SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x03\x00\x04\x01\x01\x11\x00" + SCAN
END = b"\xff\xd9"


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png()[24:29]
    return png()[:12] + header + struct.pack(">I", crc32(header)) + png()[33:]


def mp4_of(width: int, height: int) -> bytes:
    """A movie that declares the size of its pictures."""
    header = box(b"mvhd", bytes(12) + struct.pack(">II", 1000, 5000) + bytes(80))
    track = box(b"trak", box(b"tkhd", bytes(76) + struct.pack(">II", width << 16, height << 16)))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", header + track) + box(b"mdat", bytes(64))


def box(kind: bytes, data: bytes) -> bytes:
    """One box of an MP4."""
    return struct.pack(">I", 8 + len(data)) + kind + data


@pytest.mark.parametrize(
    "name", ["cam-1", "Kamera 7 · Halle B", "カメラ", "a", "x" * NAME_BYTES_MAX, "'; DROP", "%s{}"]
)
def test_a_name_that_can_be_shown_passes(name: str):
    check_name(name, "source_id")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * (NAME_BYTES_MAX + 1), "bytes"),
        ("é" * (NAME_BYTES_MAX // 2 + 1), "bytes"),
        ("a\nb", "U+000A"),
        ("a\x00", "U+0000"),
        ("a\x1b[31m", "U+001B"),
        ("a\x85b", "U+0085"),
        ("a\u2028b", "U+2028"),
        ("gpj\u202e.exe", "U+202E"),
        ("\u2066a", "U+2066"),
        ("\ud800", "surrogate"),
        (" a", "space"),
        ("a\u3000", "space"),
    ],
)
def test_a_name_that_cannot_be_shown_is_refused_without_being_repeated(name: str, says: str):
    with pytest.raises(RejectedError, match="site") as refused:
        check_name(name, "site")
    assert refused.value.code is RejectCode.FIELD_OUT_OF_RANGE
    assert says in refused.value.reason
    assert name not in refused.value.reason


def test_an_empty_name_is_missing():
    with pytest.raises(RejectedError) as refused:
        check_name("", "site")
    assert refused.value.code is RejectCode.MISSING_FIELD


@given(st.text())
def test_any_text_passes_or_is_refused(name: str):
    try:
        check_name(name, "site")
    except RejectedError:
        return
    assert name.strip() == name
    assert 0 < len(name.encode()) <= NAME_BYTES_MAX
    assert name.splitlines() == [name]


@pytest.mark.parametrize("code", ["]d2\x1d0112345", " a ", "a\nb", "x" * CODE_BYTES_MAX, "\u202e"])
def test_a_code_is_whatever_was_printed(code: str):
    check_code(code, "code")


@pytest.mark.parametrize(
    ("code", "says"),
    [("", "is empty"), ("a\x00", "U+0000"), ("\ud800", "surrogate"), ("é" * (CODE_BYTES_MAX // 2 + 1), "4098 bytes")],
)
def test_a_code_that_cannot_be_kept_is_refused_without_being_repeated(code: str, says: str):
    with pytest.raises(RejectedError, match="about") as refused:
        check_code(code, "about")
    assert says in refused.value.reason
    assert len(refused.value.reason) < 100


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (png(4, 3), ImageHeader("image/png", 4, 3)),
        (png_header(FRAME_SIDE_PIXELS_MAX, 3051), ImageHeader("image/png", FRAME_SIDE_PIXELS_MAX, 3051)),
        (JPEG + END, ImageHeader("image/jpeg", 4, 3)),
        (JPEG + SCAN * (JPEG_SCANS_MAX - 1) + END, ImageHeader("image/jpeg", 4, 3)),
        (mp4(duration_ms=3_600_000), VideoHeader(duration_us=3_600_000_000, width=4, height=2)),
        (mp4(duration_ms=0), VideoHeader(width=4, height=2)),
        (mp4_of(10_000, 10_000), VideoHeader(duration_us=5_000_000, width=10_000, height=10_000)),
    ],
)
def test_a_file_within_the_limits_has_a_header(data: bytes, header: object):
    assert probe_of(data).header() == header
    check_header(probe_of(data).header(), len(data))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GIF89a" + bytes(40), RejectCode.NOT_AN_IMAGE),
        (mp4()[:40], RejectCode.NOT_A_VIDEO),
        (png_header(FRAME_SIDE_PIXELS_MAX + 1, 1), RejectCode.TOO_LARGE),
        (png_header(1, FRAME_SIDE_PIXELS_MAX + 1), RejectCode.TOO_LARGE),
        (png_header(20_000, 5_001), RejectCode.TOO_LARGE),
        (mp4(duration_ms=3_600_001), RejectCode.TOO_LARGE),
        (mp4_of(16_384, 16_384), RejectCode.TOO_LARGE),
        (mp4_of(FRAME_SIDE_PIXELS_MAX + 1, 1), RejectCode.TOO_LARGE),
        (JPEG + SCAN * JPEG_SCANS_MAX + END, RejectCode.FIELD_OUT_OF_RANGE),
    ],
)
def test_a_file_beyond_a_limit_is_refused(data: bytes, code: RejectCode):
    with pytest.raises(RejectedError) as refused:
        check_header(probe_of(data).header(), len(data))
    assert refused.value.code is code


def test_an_image_of_more_bytes_than_a_frame_is_refused():
    with pytest.raises(RejectedError) as refused:
        check_header(ImageHeader("image/png", 4, 3), FRAME_BYTES_MAX + 1)
    assert refused.value.code is RejectCode.TOO_LARGE
    check_header(ImageHeader("image/png", 4, 3), FRAME_BYTES_MAX)


def _ldo_body(**changes: Any) -> bytes:
    return orjson.dumps({"sensor_data": {}, "context": {}, "prediction": {}} | changes)


DIGEST = "ab" * 32
NAMES = st.text(max_size=8) | st.sampled_from(
    [
        "camera-1",
        "a/b",
        "ä",
        "д" * 100,
        "n" * NAME_BYTES_MAX,
        "n" * (NAME_BYTES_MAX + 1),
        "nul\0",
        "a\nb",
        "\u202e",
        " a",
    ]
)
CODES = st.text(max_size=8) | st.sampled_from(["c" * CODE_BYTES_MAX, "c" * (CODE_BYTES_MAX + 1), "a\0b", "]d2\x1d01"])
DIGESTS = st.sampled_from([DIGEST, "A" * 64, "a" * 63, "", "../" + "a" * 61]) | st.text(max_size=8)
TIMES = st.sampled_from([CLOCK_SET_US_MIN, CLOCK_SET_US_MIN - 1, 0, NOW_US, NOW_US + CAPTURED_AHEAD_US_MAX]) | (
    st.integers(NOW_US + CAPTURED_AHEAD_US_MAX - 2, NOW_US + CAPTURED_AHEAD_US_MAX + 2)
    | st.integers(-(2**63), 2**63 - 1)
)
SEQUENCES = st.integers(-2, 2) | st.integers(-(2**64), 2**64)
ATTRIBUTES = st.binary(max_size=8) | st.sampled_from(
    [
        b"{}",
        b'{"lens": 3}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\\\u0000"}',
        b"null",
        b"[]",
        b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
        orjson.dumps({"a": "x" * (ATTRIBUTES_BYTES_MAX - 8)}),
        orjson.dumps({"a": "x" * (ATTRIBUTES_BYTES_MAX - 7)}),
    ]
)
LDO_BODIES = st.binary(max_size=8) | st.sampled_from(
    [
        b"",
        b"[]",
        b"{}",
        _ldo_body(),
        _ldo_body(context=None),
        _ldo_body(ldo_id="L-2"),
        _ldo_body(source_id="camera-1"),
        _ldo_body(text="\0"),
        _ldo_body(filler="x" * (LDO_BODY_BYTES_MAX - len(_ldo_body(filler="")))),
        _ldo_body(filler="x" * (LDO_BODY_BYTES_MAX - len(_ldo_body(filler="")) + 1)),
    ]
)
CLAIMS = st.sampled_from(
    [
        staging_key("plant", "camera-1", DIGEST),
        staging_key("plant", "camera-2", DIGEST),
        staging_key("plant", "camera-1", "../camera-2/x"),
        f"blobs/sha256/ab/ab/{DIGEST}",
        "",
        "\0",
    ]
)
SIDES = st.sampled_from([-1, 0, 1, 3, 4, FRAME_SIDE_PIXELS_MAX, FRAME_SIDE_PIXELS_MAX + 1, 20_000, 2**31])
SIZES = st.sampled_from(
    [-1, 0, 1, INLINE_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, CLIP_BYTES_MAX, CLIP_BYTES_MAX + 1]
)
DURATIONS = st.sampled_from([-1, 0, 1, CLIP_DURATION_US_MAX, CLIP_DURATION_US_MAX + 1]) | st.integers()
MEDIA_TYPES = st.sampled_from(["image/png", "image/jpeg", "image/webp", "video/mp4", "video/webm", "", "\0"])

ORIGIN = {"source_id": NAMES, "site": NAMES, "captured_at_us": TIMES, "sequence": SEQUENCES}
STAGED = {"claim": st.none() | CLAIMS, "size_bytes": SIZES, "body": st.none(), "sha256": DIGESTS}
INLINE = {"size_bytes": SIZES, "body": st.binary(max_size=8) | st.just(png(5, 5)), "sha256": DIGESTS}
CHANGES: list[tuple[InputEvent, dict[str, st.SearchStrategy[Any]]]] = [
    (cid(), {"code": CODES, "symbology": NAMES, "seen_in": st.none() | DIGESTS}),
    (ldo(), {"ldo_id": NAMES, "body": LDO_BODIES, "clip_sha256": st.none() | DIGESTS}),
    (frame(), {"width": SIDES, "height": SIDES, "media_type": MEDIA_TYPES, "attributes": ATTRIBUTES, **INLINE}),
    (
        replace(frame(), body=None, claim=staging_key("plant", "camera-1", DIGEST)),
        {"width": SIDES, "height": SIDES, "media_type": MEDIA_TYPES, "attributes": ATTRIBUTES, **STAGED},
    ),
    (
        clip(),
        {"duration_us": DURATIONS, "media_type": MEDIA_TYPES, "about": st.none() | CODES, "attributes": ATTRIBUTES}
        | INLINE,
    ),
    (
        replace(clip(), body=None, claim=staging_key("plant", "camera-1", DIGEST)),
        {"duration_us": DURATIONS, "media_type": MEDIA_TYPES, "about": st.none() | CODES, "attributes": ATTRIBUTES}
        | STAGED,
    ),
]


@st.composite
def changed_events(draw: st.DrawFn) -> InputEvent:
    """A good event in which up to three fields have any value, within or beyond their limits."""
    event, fields = draw(st.sampled_from(CHANGES))
    fields = ORIGIN | fields
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
    return replace(event, **{name: draw(fields[name]) for name in names})


@settings(max_examples=300, deadline=None)
@given(event=changed_events())
@example(event=cid(sequence=-1))
@example(event=cid(seen_in="A" * 64))
@example(event=cid(captured_at_us=NOW_US + CAPTURED_AHEAD_US_MAX + 1))
@example(event=ldo(clip_sha256="a" * 63))
@example(event=frame(attributes=b'{"a": "\\u0000"}'))
@example(event=frame(sha256=DIGEST))
@example(event=clip(media_type="video/webm"))
@example(event=replace(frame(), body=None, source_id="д" * 100, claim=staging_key("plant", "д" * 100, DIGEST)))
def test_what_a_producer_accepts_a_worker_accepts(event: InputEvent):
    try:
        message = Dispatch(None, now_us=lambda: NOW_US).outgoing(event, None, None)
    except (ValueError, HeadraceError):
        return
    valid = validate(decode(message.value, type(event)), NOW_US)
    assert valid.digest == message.digest
    assert valid.event == event


@settings(max_examples=100, deadline=None)
@given(event=changed_events())
def test_what_a_worker_accepts_a_producer_accepts(event: InputEvent):
    try:
        valid = validate(decode(delivery(event).value, type(event)), NOW_US)
    except ValueError:
        return
    assert Dispatch(None, now_us=lambda: NOW_US).outgoing(event, None, None).digest == valid.digest


@pytest.mark.parametrize(
    ("captured_at_us", "is_good"),
    [(CLOCK_SET_US_MIN - 1, False), (CLOCK_SET_US_MIN, True), (NOW_US, True), (NOW_US + 2 * 86_400_000_000, False)],
)
def test_a_time_that_its_caller_can_correct_is_neither_before_2000_nor_ahead(
    captured_at_us: int, *, is_good: bool
) -> None:
    with nullcontext() if is_good else pytest.raises(RejectedError) as refused:
        check_captured_at(captured_at_us, NOW_US)
    assert is_good or refused.value.code is RejectCode.ABSURD_TIME


def test_a_rejection_comes_out_of_another_process_as_it_was_raised() -> None:
    rejected = RejectedError(RejectCode.NOT_AN_IMAGE, "why")
    again = pickle.loads(pickle.dumps(rejected))
    assert (type(again), again.code, again.reason) == (RejectedError, RejectCode.NOT_AN_IMAGE, "why")
