from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from headrace.schemas.codec import decode
from headrace.schemas.digest import event_id, record_id
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.schemas.headers import traceparent_of
from headrace.store.catalog.outbox import PENDING_BYTES_MAX, Pending, PublishedEvent
from headrace.streams.relay.announcement import (
    ABRIDGED,
    ABRIDGED_ATTRIBUTES,
    OUTPUT_TOPICS,
    Announcement,
    OversizeError,
    announce,
    announce_each,
    published_event,
    transaction_limits,
)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ingested() -> Ingested:
    return Ingested(
        source_id="camera-é",
        site="here",
        captured_at_us=1,
        sequence=2,
        event_id=str(uuid4()),
        record_id=str(uuid4()),
        kind="frame",
        digest="ab" * 32,
        ingested_at_us=3,
        media_type="image/png",
        size_bytes=4,
        store_key="blobs/x",
    )


def dead_letter(key: bytes | None) -> DeadLetter:
    return DeadLetter(
        event_id=str(uuid4()),
        code="not_framed",
        reason="no",
        topic="edge.frames.v1",
        partition=1,
        offset=2,
        timestamp_us=3,
        key=key,
        value=b"value",
        headers=b"[]",
        rejected_at_us=4,
    )


def pending(event: Ingested | DeadLetter, topic: str, traceparent: str | None = TRACEPARENT) -> Pending:
    return Pending(1, UUID(event.event_id), topic, event, traceparent)


def limit_of(row: Pending) -> int:
    return OUTPUT_TOPICS[row.topic].message_bytes_max


def said(row: Pending) -> Announcement:
    return announce(row, limit_of(row))


def test_an_announcement_is_keyed_by_its_source_and_carries_its_trace():
    event = ingested()
    announcement = said(pending(event, "ingested.frames.v1"))
    assert (announcement.topic, announcement.key) == ("ingested.frames.v1", "camera-é".encode())
    assert decode(announcement.value, Ingested) == event
    assert traceparent_of(announcement.headers) == TRACEPARENT
    assert published_event(announcement.headers) == PublishedEvent(UUID(event.event_id), event.digest)
    assert "tracestate" not in dict(announcement.headers)
    traced = dict(said(pending(event, "ingested.frames.v1", f"{TRACEPARENT} vendor=x,other=y z")).headers)
    assert (traced["traceparent"], traced["tracestate"]) == (TRACEPARENT.encode(), b"vendor=x,other=y z")


def test_a_dead_letter_keeps_its_messages_key_where_that_can_be_a_source():
    event = dead_letter(b"camera-1")
    announcement = said(pending(event, "deadletters.v1", None))
    assert announcement.key == b"camera-1"
    assert decode(announcement.value, DeadLetter) == event
    subject = f"{event.topic}/{event.partition}/{event.offset}"
    assert published_event(announcement.headers) == PublishedEvent(UUID(event.event_id), subject)


def test_a_dead_letter_whose_key_is_no_source_is_keyed_by_its_topic():
    for key in (None, b"", bytes(201)):
        assert said(pending(dead_letter(key), "deadletters.v1")).key == b"edge.frames.v1"


def test_a_dead_letter_too_large_for_its_topic_is_said_without_its_bytes():
    limit = OUTPUT_TOPICS["deadletters.v1"].message_bytes_max
    event = replace(dead_letter(b"camera-1"), value=bytes(limit), headers=b'[["a","b"]]')
    abridged = said(pending(event, "deadletters.v1"))
    assert abridged.is_abridged
    assert decode(abridged.value, DeadLetter) == replace(
        event, key=None, value=None, headers=b"[]", reason=f"no ({ABRIDGED})"
    )
    fits = replace(event, value=bytes(limit - 2000))
    assert decode(said(pending(fits, "deadletters.v1")).value, DeadLetter) == fits


def test_the_limit_counts_every_byte_and_what_cannot_be_abridged_is_refused():
    row = pending(replace(ingested(), attributes=b'{"a":"%s"}' % (b"x" * 5000)), "ingested.frames.v1")
    whole = said(row)
    assert announce(row, whole.size_bytes) == whole
    abridged = announce(row, whole.size_bytes - 1)
    assert abridged.is_abridged
    assert announce(row, abridged.size_bytes) == abridged
    with pytest.raises(OversizeError):
        announce(row, abridged.size_bytes - 1)


def test_attributes_too_large_for_the_topic_are_left_out():
    event = replace(ingested(), attributes=b'{"a":"%s"}' % (b"x" * 3_000_000))
    announcement = said(pending(event, "ingested.frames.v1"))
    assert decode(announcement.value, Ingested) == replace(event, attributes=ABRIDGED_ATTRIBUTES)
    assert announcement.size_bytes < OUTPUT_TOPICS["ingested.frames.v1"].message_bytes_max


def test_a_row_that_cannot_be_said_holds_up_no_other():
    good = [pending(ingested(), "ingested.frames.v1") for _ in range(2)]
    gone = replace(good[0], event=None)
    huge = pending(replace(ingested(), about="x" * 3_000_000), "ingested.frames.v1")
    wrong = pending(replace(ingested(), media_type="\ud800"), "ingested.frames.v1")
    nameless = pending(replace(ingested(), width="wide"), "ingested.frames.v1")  # type: ignore[arg-type]
    announced = announce_each([gone, good[0], huge, wrong, nameless, good[1]], limit_of)
    assert announced.rows == good
    assert [message.value for message in announced.messages] == [said(row).value for row in good]
    assert announced.oversize == 1
    assert [row for row, _ in announced.skipped] == [gone, huge, wrong, nameless]
    assert "no longer in the catalog" in announced.skipped[0][1]


def test_a_message_that_somebody_else_wrote_has_no_event_id():
    assert published_event([]) is None
    assert published_event([("ce_id", None)]) is None
    assert published_event([("ce_id", b"42")]) is None
    assert published_event([("ce_id", b"\xff")]) is None


def test_the_subject_of_an_announcement_leads_to_its_record_or_to_the_rejected_message():
    record = record_id(Kind.CLIP, "ab" * 32)
    announced = PublishedEvent(event_id(record), "ab" * 32)
    assert (record in announced.records, announced.position) == (True, None)
    rejected = PublishedEvent(uuid4(), "site.edge.cids.v1/3/17")
    assert (rejected.records, rejected.position) == ([], ("site.edge.cids.v1", 3, 17))
    for subject in (None, "", "17", "edge.cids.v1/x/17", "edge.cids.v1/-1/17"):
        assert (PublishedEvent(uuid4(), subject).records, PublishedEvent(uuid4(), subject).position) == ([], None)


def test_the_relay_writes_to_every_announcement_topic():
    assert sorted(OUTPUT_TOPICS) == [
        "deadletters.v1",
        "ingested.cids.v1",
        "ingested.clips.v1",
        "ingested.frames.v1",
        "ingested.ldos.v1",
    ]


def test_a_transaction_takes_all_it_may_until_one_fails():
    assert transaction_limits(2000, 0) == (2000, PENDING_BYTES_MAX)


def test_each_failure_halves_the_next_transaction_down_to_a_single_row():
    limits = [transaction_limits(2000, failures) for failures in range(31)]
    assert limits[1:4] == [(2000 // part, PENDING_BYTES_MAX // part) for part in (2, 4, 8)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == (1, 1)  # the outbox gives one row, however large
    assert min(min(pair) for pair in limits) == 1
