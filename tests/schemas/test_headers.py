"""Message headers: CloudEvents in binary mode and the trace context."""

from dataclasses import fields, replace
from datetime import datetime
from uuid import UUID

import pytest

from headrace.schemas.events import CaptureRequest, Cid, DeadLetter, Ingested
from headrace.schemas.headers import (
    DAMAGED,
    DROPPED,
    REDRIVE_ATTEMPT,
    REDRIVE_OF,
    REDRIVE_ORIGIN,
    SPOOL,
    Redrive,
    SpoolLosses,
    headers_for,
    losses_of,
    new_traceparent,
    redrive_headers,
    redrive_of,
    rfc3339,
    traceparent_of,
    unix_us_of,
)
from headrace.schemas.limits import CLOCK_SET_US_MIN

ORIGIN = {"source_id": "camera-1", "site": "plant", "captured_at_us": 1_700_000_000_123_456, "sequence": 7}
CID = Cid(**ORIGIN, code="C-1")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event_of(kind: type, **known: object) -> object:
    """An event whose other fields hold what does not matter here."""
    return kind(**{field.name: "x" for field in fields(kind)} | known)


def test_the_source_is_a_uri_reference_whatever_it_is_called() -> None:
    headers = dict(headers_for(replace(CID, site="Werk 1/Süd", source_id="a?b#c"), subject="x", traceparent=None))
    assert headers["ce_source"] == b"/sites/Werk%201%2FS%C3%BCd/sources/a%3Fb%23c"


def test_a_sources_event_is_named_by_its_own_number() -> None:
    assert dict(headers_for(CID, subject="abc", traceparent=TRACE)) == {
        "ce_specversion": b"1.0",
        "ce_id": b"7",
        "ce_source": b"/sites/plant/sources/camera-1",
        "ce_type": b"headrace.cid.v1",
        "ce_time": b"2023-11-14T22:13:20.123456Z",
        "ce_subject": b"abc",
        "content-type": b"application/vnd.apache.avro+confluent",
        "traceparent": TRACE.encode(),
    }


def test_an_announcement_is_named_by_its_event_id_and_timed_by_its_ingestion() -> None:
    event = event_of(Ingested, **ORIGIN, event_id="e-1", ingested_at_us=0)
    headers = dict(headers_for(event, subject="abc", traceparent=None))
    assert (headers["ce_id"], headers["ce_time"]) == (b"e-1", b"1970-01-01T00:00:00Z")
    assert "traceparent" not in headers


@pytest.mark.parametrize("kind", [Cid, Ingested])
@pytest.mark.parametrize(
    ("captured_at_us", "marks"), [(0, [b"unset"]), (CLOCK_SET_US_MIN - 1, [b"unset"]), (CLOCK_SET_US_MIN, [])]
)
def test_a_source_without_a_clock_is_marked(kind: type, captured_at_us: int, marks: list[bytes]) -> None:
    known = {} if kind is Cid else {"event_id": "e-1", "ingested_at_us": 0}
    event = event_of(kind, **ORIGIN | {"captured_at_us": captured_at_us}, **known)
    headers = headers_for(event, subject="abc", traceparent=None)
    assert [value for name, value in headers if name == "headrace-clock"] == marks


def test_a_dead_letter_speaks_for_the_service() -> None:
    event = event_of(DeadLetter, event_id="e-1", rejected_at_us=1_000_000)
    headers = dict(headers_for(event, subject="", traceparent=None))
    assert (headers["ce_source"], headers["ce_time"]) == (b"/headrace", b"1970-01-01T00:00:01Z")


def test_a_request_for_a_capture_is_named_by_its_id_and_timed_by_when_it_came() -> None:
    event = event_of(CaptureRequest, request_id="r-1", source_id="camera-1", site="plant", requested_at_us=0)
    headers = dict(headers_for(event, subject="", traceparent=None))
    assert (headers["ce_id"], headers["ce_time"]) == (b"r-1", b"1970-01-01T00:00:00Z")
    assert headers["ce_source"] == b"/sites/plant/sources/camera-1"


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("vendor=x", True),
        ("a=1,b@c=2 ,d/e= x", True),
        ("a=" + "x" * 510, True),
        ("a=" + "x" * 511, False),
        ("A=1", False),
        ("a=1\r\nx: y", False),
        ("a=ü", False),
        ("", False),
    ],
)
def test_a_trace_state_goes_from_message_to_message(state: str, kept: bool) -> None:
    received = [("tracestate", state.encode()), ("traceparent", TRACE.encode())]
    passed_on = headers_for(CID, subject="", traceparent=traceparent_of(received))
    assert [value for name, value in passed_on if name.startswith("trace")] == [
        TRACE.encode(),
        *([state.encode()] if kept else []),
    ]
    assert traceparent_of(passed_on) == traceparent_of(received)
    assert traceparent_of([("tracestate", state.encode())]) is None


def test_the_trace_context_is_found_among_headers() -> None:
    assert traceparent_of(headers_for(CID, subject="", traceparent=TRACE)) == TRACE
    assert traceparent_of([("a", b"b"), ("traceparent", None)]) is None
    assert traceparent_of([]) is None


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff" * 55,
        TRACE.upper().encode(),
        TRACE.encode() + b"\n",
        TRACE.encode() * 1000,
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
    ],
)
def test_a_malformed_trace_context_is_none(hostile: bytes) -> None:
    assert traceparent_of([("traceparent", hostile)]) is None


def test_a_new_trace_context_is_well_formed() -> None:
    made = new_traceparent(bytes(range(1, 25)))
    assert traceparent_of([("traceparent", made.encode())]) == made
    assert made == "00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01"


def test_times_are_rfc_3339() -> None:
    assert rfc3339(946_684_800_000_000) == "2000-01-01T00:00:00Z"


LETTER = UUID("11111111-2222-5333-8444-555555555555")
SAID = Redrive(LETTER, 3)


def test_what_is_said_is_read_again_beside_the_messages_own_headers() -> None:
    headers = redrive_headers([("a", b"1"), ("a", b"2")], SAID, ("edge.cids.v1", 2, 17))
    assert headers[:2] == [("a", b"1"), ("a", b"2")]
    assert dict(headers)[REDRIVE_ORIGIN] == b"edge.cids.v1/2/17"
    assert redrive_of(headers) == SAID


def test_what_a_message_said_of_itself_is_replaced() -> None:
    forged = [(REDRIVE_OF, b"forged"), (REDRIVE_ATTEMPT, b"99")]
    assert redrive_of(redrive_headers(forged, SAID, ("edge.cids.v1", 0, 0))) == SAID


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("a", b"1")],
        [(REDRIVE_OF, None)],
        [(REDRIVE_OF, b"\xff"), (REDRIVE_ATTEMPT, b"1")],
        [(REDRIVE_OF, str(LETTER).encode())],
        [(REDRIVE_ATTEMPT, b"1")],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, b"-1")],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, "\u0661".encode())],
        [(REDRIVE_OF, str(LETTER).encode()), (REDRIVE_ATTEMPT, b"1" * 10)],
    ],
)
def test_what_says_nothing_readable_is_no_redrive(headers: list[tuple[str, bytes | None]]) -> None:
    assert redrive_of(headers) is None


@pytest.mark.parametrize("text", ["2026-11-30T12:00:00.000001+02:00", "2026-11-30T10:00:00.000001"])
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert rfc3339(unix_us_of(datetime.fromisoformat(text))) == "2026-11-30T10:00:00.000001Z"


def test_the_losses_of_a_spool_are_read_from_the_headers():
    spool = "0123456789abcdef"
    headers = [(DROPPED, b"3"), (DAMAGED, b"2"), (SPOOL, spool.encode())]
    assert losses_of(headers) == SpoolLosses(spool, 3, 2)
    assert losses_of(headers[:1]) == SpoolLosses("", 3, 0)
    assert losses_of([(DROPPED, b"3"), (SPOOL, b"no id")]) == SpoolLosses("", 3, 0)
    for nonsense in (b"", b"-1", b"x", b"1" * 19, "\u0663".encode(), None, b"0"):
        assert losses_of([(DROPPED, nonsense), (SPOOL, spool.encode())]) is None
