"""The ids of live events, and what one stream reads of the ring."""

import asyncio
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.live.event_buffer import EventBuffer
from headrace.gateway.live.resume_token import (
    ID_CHARACTERS_MAX,
    REQUESTS,
    TOPICS,
    ResumeToken,
    TopicPartitionRef,
    parse_position,
)
from headrace.gateway.live.stream_event import EventFilter, StreamedEvent
from headrace.gateway.live.subscription import SlowConsumerError, Subscription
from headrace.gateway.live.topic_tail import TopicTail
from headrace.gateway.problems import Problem
from headrace.runtime.settings import load_settings

PLACES = [(topic, partition) for topic in TOPICS for partition in range(4)]
ADMIN = Principal("key:test", Role.ADMIN, ("*",))


@given(st.dictionaries(st.sampled_from([*PLACES, REQUESTS]), st.integers(0, 2**63 - 1)))
def test_an_id_says_exactly_where_to_go_on(nexts: dict[TopicPartitionRef, int]) -> None:
    read = parse_position(ResumeToken(nexts).text())
    assert {place: read[place] for place in [*PLACES, REQUESTS]} == {
        place: nexts.get(place, 0) for place in [*PLACES, REQUESTS]
    }


@given(st.lists(st.tuples(st.sampled_from([*PLACES, REQUESTS]), st.integers(0, 2**40))))
def test_an_id_that_was_moved_is_the_id_of_where_it_was_moved_to(moves: list[tuple[TopicPartitionRef, int]]) -> None:
    moved, furthest = ResumeToken({}), {}
    for place, offset in moves:
        moved.advance(place, offset)
        furthest[place] = max(offset, furthest.get(place, 0))
        assert parse_position(moved.text())[place] == furthest[place]


def test_forty_partitions_fit_an_id() -> None:
    nexts = {(topic, partition): 2 * 10**8 for topic in TOPICS for partition in range(40)}
    assert len(ResumeToken({**nexts, REQUESTS: 2 * 10**8}).text()) <= ID_CHARACTERS_MAX


@pytest.mark.parametrize(
    "text",
    [
        "!",
        "é",
        "A",
        "AQ",
        "Ag",
        "AQAAAAAA" * 200,
        "AQAAAAAB",
        "AQAAAAAAAA",
        "AQCA",
        "AQD_____DwAAAA",
        base64.urlsafe_b64encode(b"\x01" + b"\xff" * 40).decode(),
        "1",
        "' or 1=1",
        "A" * 5000,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_position(text)
    assert refused.value.status_code == 422


def _event(offset: int, site: str = "here") -> StreamedEvent:
    return StreamedEvent("ingested", "cid", site, "source", (TOPICS[0], 0), offset, "{}")


def _ring(tail: TopicTail, ring: EventBuffer) -> EventBuffer:
    tail.ring = ring
    ring.begin({(TOPICS[0], 0): 100, REQUESTS: 1})
    return ring


def _tail() -> TopicTail:
    return TopicTail(load_settings(_env_file=None), None)  # type: ignore[arg-type]  # the ring is all that is read


async def test_a_stream_gets_each_event_once_and_in_order() -> None:
    tail = _tail()
    ring = _ring(tail, EventBuffer())
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 103, REQUESTS: 1}), EventFilter(), ADMIN)
    for offset in range(100, 110):
        ring.add(_event(offset))
    ring.add(_event(105))  # read twice
    sent = await stream.take(0.1)
    ring.add(_event(110))
    sent += await stream.take(0.1)
    assert [parse_position(one.id)[(TOPICS[0], 0)] for one in sent] == list(range(104, 112))
    assert await stream.take(0.0) == []


async def test_a_stream_that_falls_off_the_ring_is_told_so() -> None:
    tail = _tail()
    ring = _ring(tail, EventBuffer(events_max=10))
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 100, REQUESTS: 1}), EventFilter(), ADMIN)
    ring.add(_event(100))
    assert len(await stream.take(0.1)) == 1
    for offset in range(101, 120):
        ring.add(_event(offset))
    with pytest.raises(SlowConsumerError):
        await stream.take(0.1)


async def test_what_falls_off_the_ring_is_missed_by_who_needs_it_alone() -> None:
    ring = _ring(_tail(), EventBuffer(bytes_max=4000))
    for offset in range(100, 120):
        ring.add(_event(offset))
    place = (TOPICS[0], 0)
    first = ring.firsts[place]
    assert 100 < first < 120
    assert ring.missing(ResumeToken({place: 100, REQUESTS: 1})) == {place: (100, first)}
    assert ring.missing(ResumeToken({place: first, REQUESTS: 1})) == {}
    assert ring.end - ring.first == 120 - first


async def test_a_stream_wakes_when_something_comes() -> None:
    tail = _tail()
    ring = _ring(tail, EventBuffer())
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 100, REQUESTS: 1}), EventFilter(site="here"), ADMIN)
    waiting = asyncio.create_task(stream.take(60))
    await asyncio.sleep(0.05)
    ring.add(_event(100, "elsewhere"))
    ring.add(_event(101))
    tail._tell()
    assert len(await waiting) == 1
