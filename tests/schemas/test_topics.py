"""The topics hold what their events may weigh, and every event knows its kind."""

import re

import pytest

from headrace.schemas.codec import encode
from headrace.schemas.events import Cid, Clip, DeadLetter, Frame, Kind, Ldo, kind_of
from headrace.schemas.limits import (
    ATTRIBUTES_BYTES_MAX,
    CODE_BYTES_MAX,
    INLINE_BYTES_MAX,
    LDO_BODY_BYTES_MAX,
    NAME_BYTES_MAX,
)
from headrace.schemas.topics import (
    DAY_S,
    DEAD_LETTERS,
    TOPICS,
    Topic,
    ingested_topic,
    input_topic,
    input_topics,
    is_transactional,
    kind_of_topic,
    site_of_topic,
    wait_days_max,
)

NAME = "n" * NAME_BYTES_MAX
ORIGIN = {"source_id": NAME, "site": NAME, "captured_at_us": 2**62, "sequence": 2**62}
MEDIA = {"sha256": "0" * 64, "size_bytes": INLINE_BYTES_MAX, "attributes": b" " * ATTRIBUTES_BYTES_MAX}
LARGEST = (
    Cid(**ORIGIN, code="c" * CODE_BYTES_MAX, seen_in="0" * 64),
    Frame(**ORIGIN, **MEDIA, media_type="image/jpeg", width=1, height=1, body=bytes(INLINE_BYTES_MAX)),
    Clip(**ORIGIN, **MEDIA, duration_us=1, about=NAME, body=bytes(INLINE_BYTES_MAX)),
    Ldo(**ORIGIN, ldo_id=NAME, body=bytes(LDO_BODY_BYTES_MAX), clip_sha256="0" * 64),
)


@pytest.mark.parametrize("event", LARGEST, ids=lambda event: type(event).__name__)
def test_the_largest_event_fits_its_topic_with_room_for_one_that_is_too_large(event: Cid | Frame | Clip | Ldo) -> None:
    # What is a little over its limit has to reach the agent, to become a dead letter that says so.
    assert len(encode(event)) * 1.1 < input_topic(kind_of(event)).message_bytes_max


def test_a_message_waits_as_long_as_its_spool_and_its_topic_keep_it() -> None:
    assert wait_days_max(1.5) == 1.5 + max(input_topic(kind).retention_s for kind in Kind) / DAY_S


@pytest.mark.parametrize("kind", Kind)
def test_every_rejected_message_fits_the_dead_letters(kind: Kind) -> None:
    topic = input_topic(kind)
    letter = DeadLetter(
        event_id="e" * 36,
        code="c" * 40,
        reason="r" * 1000,
        topic=topic.name,
        partition=1,
        offset=2**62,
        timestamp_us=2**62,
        key=NAME.encode(),
        value=bytes(topic.message_bytes_max),
        headers=b" " * 10_000,
        rejected_at_us=2**62,
    )
    assert len(encode(letter)) < DEAD_LETTERS.message_bytes_max


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_topic_in_and_a_topic_out(kind: Kind) -> None:
    assert input_topic(kind).name == f"edge.{kind}s.v1"
    assert ingested_topic(kind).name == f"ingested.{kind}s.v1"


@pytest.mark.parametrize("kind", Kind)
def test_a_topics_kind_is_known_with_and_without_the_prefix_of_a_site(kind: Kind) -> None:
    name = input_topic(kind).name
    assert kind_of_topic(name) is kind
    assert kind_of_topic(f"factory-a.{name}") is kind
    assert kind_of_topic(ingested_topic(kind).name) is None
    assert kind_of_topic(f"factory-a.{ingested_topic(kind).name}") is None
    assert kind_of_topic(f"elsewhere.factory-a.{name}") is None, "what a site has mirrored from another one"


@pytest.mark.parametrize(
    ("topic", "site"),
    [
        ("edge.cids.v1", None),
        ("factory-a.edge.cids.v1", "factory-a"),
        ("edge.edge.cids.v1", "edge"),
        ("factory-a.ingested.cids.v1", "factory-a"),
        ("a.b.edge.cids.v1", None),
        (".edge.cids.v1", None),
        ("factory-a.edge.cids.v1.old", None),
        ("factory-a.heartbeats", None),
    ],
)
def test_the_site_of_a_topic_is_its_prefix(topic: str, site: str | None) -> None:
    assert site_of_topic(topic) == site


def test_a_worker_reads_its_own_topics_and_those_of_every_site() -> None:
    existing = ["b.edge.cids.v1", "a.edge.cids.v1", "a.edge.ldos.v1", "a.ingested.cids.v1", "edge.cids.v1", "other"]
    topics = input_topics({Kind.LDO, Kind.CID}, existing)
    assert topics == {
        Kind.CID: ["edge.cids.v1", "a.edge.cids.v1", "b.edge.cids.v1"],
        Kind.LDO: ["edge.ldos.v1", "a.edge.ldos.v1"],
    }


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.name)
def test_a_topic_is_named_after_what_it_carries_and_says_its_purpose(topic: Topic) -> None:
    assert re.fullmatch(r"([a-z]+\.)?[a-z]+\.v1", topic.name)
    assert topic.purpose.endswith(".")
    assert topic.retention_s >= 7 * 86_400


def test_the_service_writes_its_results_in_transactions_and_nothing_else() -> None:
    written = {name for name in TOPICS if is_transactional(name)}
    assert written == {name for name in TOPICS if not name.startswith(("edge.", "capture."))}
    assert is_transactional("factory-a.ingested.frames.v1")
    assert not is_transactional("my-ingested.frames.v1")
