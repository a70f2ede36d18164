"""A mirrored message is recorded where its source published it, and as its site's own."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from headrace.schemas.catalog_rows import RowBatch
from headrace.schemas.digest import dead_letter_id
from headrace.schemas.events import Kind
from headrace.schemas.headers import DROPPED, SPOOL, Redrive
from headrace.schemas.mirrored import ORIGIN, SitePosition, origin_header
from headrace.schemas.reject import RejectCode
from headrace.streams.core.batch_plan import merged, row_batch
from headrace.streams.core.delivery import ConsumedMessage, with_origin
from headrace.streams.core.examine import examine_batch
from tests.streams.streams_samples import cid, delivery, raw_delivery

TOPIC = "factory-a.edge.cids.v1"


def mirrored(code: str, origin_offset: int | None, *, offset: int, **changes: Any) -> ConsumedMessage:
    """A scan at `origin_offset` of partition 1 at its site, and at `offset` of the same partition here."""
    headers = (
        () if origin_offset is None else (origin_header(SitePosition("factory-a", "edge.cids.v1", 1, origin_offset)),)
    )
    event = cid(code, **({"site": "factory-a"} | changes))
    return with_origin(delivery(event, topic=TOPIC, partition=1, offset=offset, headers=headers))


def rows(*messages: ConsumedMessage) -> RowBatch:
    return row_batch(examine_batch(Kind.CID, messages), {})


def test_a_sighting_has_the_position_at_the_site_however_often_it_is_mirrored() -> None:
    (first,), (again,) = rows(mirrored("C-1", 70, offset=3)).sightings, rows(mirrored("C-1", 70, offset=9)).sightings
    assert (first.topic, first.partition, first.offset, first.mirrored_offset) == (TOPIC, 1, 70, 3)
    assert replace(again, mirrored_offset=3) == first


def test_without_the_header_the_position_here_counts() -> None:
    (sighting,) = rows(mirrored("C-1", None, offset=3)).sightings
    assert (sighting.topic, sighting.partition, sighting.offset, sighting.mirrored_offset) == (TOPIC, 1, 3, None)


def test_a_dead_letter_has_the_position_at_the_site() -> None:
    origin = origin_header(SitePosition("factory-a", "edge.cids.v1", 1, 70))
    message = with_origin(raw_delivery(Kind.CID, b"?", topic=TOPIC, partition=1, offset=3, headers=(origin,)))
    (letter,) = rows(message).dead_letters
    assert (letter.topic, letter.partition, letter.offset) == (TOPIC, 1, 70)
    assert letter.dead_letter_id == dead_letter_id(TOPIC, 1, 70, b"?")


def test_an_event_under_the_name_of_another_site_is_a_dead_letter_of_the_site_that_sent_it() -> None:
    message = mirrored("C-1", 70, offset=3, site="factory-b")
    message = replace(message, headers=(*message.headers, (DROPPED, b"9"), (SPOOL, b"0123456789abcdef")))
    batch = rows(message)
    assert not batch.records
    (letter,) = batch.dead_letters
    assert (letter.code, letter.site) == (RejectCode.FOREIGN_SITE, "factory-a")
    assert [loss.site for loss in batch.losses] == ["factory-a"], "and no spool of the other one has lost anything"


@pytest.mark.parametrize(
    "value", [b"{}", orjson.dumps({"site": "b", "topic": "edge.cids.v1", "partition": 1, "offset": 0})]
)
def test_a_header_that_contradicts_the_topic_is_a_dead_letter(value: bytes) -> None:
    message = with_origin(delivery(cid(site="factory-a"), topic=TOPIC, headers=((ORIGIN, value),)))
    (letter,) = rows(message).dead_letters
    assert letter.code is RejectCode.ORIGIN_INVALID


def test_two_messages_of_one_position_at_the_site_are_told_apart() -> None:
    batch = examine_batch(Kind.CID, [mirrored("old", 0, offset=5), mirrored("new", 0, offset=6)])
    left = batch.with_rejected([])
    assert [delivery.event.sequence for delivery in left.accepted] == [7, 7]
    assert len({delivery.message.position for delivery in left.accepted}) == 2


def test_the_offsets_at_the_site_are_kept_as_runs_in_the_order_of_delivery() -> None:
    first = rows(*[mirrored(f"C-{at}", at, offset=at) for at in (5, 6, 7, 9, 10, 2, 3)])
    assert first.origins == {(TOPIC, 1): [(5, 7), (9, 10), (2, 3)]}
    joined = merged([first, rows(mirrored("C-4", 4, offset=20))])
    assert joined is not None
    assert joined.origins == {(TOPIC, 1): [(5, 7), (9, 10), (2, 4)]}
    redriven = replace(mirrored("C-8", 8, offset=30), redrive=Redrive(dead_letter_id(TOPIC, 1, 8, b""), 1))
    assert rows(redriven, mirrored("C-x", None, offset=31), delivery(cid())).origins == {}
