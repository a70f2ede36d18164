"""Resume tokens, and how a subscription reads the event buffer."""

import asyncio
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.live.event_buffer import EventBuffer, EventFilter, StreamedEvent
from headrace.gateway.live.resume_token import (
    REQUESTS,
    TOKEN_CHARACTERS_MAX,
    TOPICS,
    ResumeToken,
    parse_resume_token,
)
from headrace.gateway.live.subscription import SlowConsumerError, Subscription
from headrace.gateway.live.topic_tail import TopicTail
from headrace.gateway.problems import Problem
from headrace.runtime.settings import load_settings
from headrace.schemas.topics import PartitionKey

KEYS = [(topic, partition) for topic in TOPICS for partition in range(4)]
ADMIN = Principal("key:test", Role.ADMIN, ("*",))


@given(st.dictionaries(st.sampled_from([*KEYS, REQUESTS]), st.integers(0, 2**63 - 1)))
def test_a_token_round_trips(offsets: dict[PartitionKey, int]) -> None:
    read = parse_resume_token(ResumeToken(offsets).encode())
    assert {key: read[key] for key in [*KEYS, REQUESTS]} == {key: offsets.get(key, 0) for key in [*KEYS, REQUESTS]}


@given(st.lists(st.tuples(st.sampled_from([*KEYS, REQUESTS]), st.integers(0, 2**40))))
def test_an_advanced_token_encodes_its_new_offsets(moves: list[tuple[PartitionKey, int]]) -> None:
    moved, furthest = ResumeToken({}), {}
    for key, offset in moves:
        moved.advance(key, offset)
        furthest[key] = max(offset, furthest.get(key, 0))
        assert parse_resume_token(moved.encode())[key] == furthest[key]


def test_forty_partitions_fit_a_token() -> None:
    offsets = {(topic, partition): 2 * 10**8 for topic in TOPICS for partition in range(40)}
    assert len(ResumeToken({**offsets, REQUESTS: 2 * 10**8}).encode()) <= TOKEN_CHARACTERS_MAX


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
def test_an_invalid_token_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_resume_token(text)
    assert refused.value.status_code == 422


def _event(offset: int, site: str = "here") -> StreamedEvent:
    return StreamedEvent("ingested", "cid", site, "source", (TOPICS[0], 0), offset, "{}")


def _with_buffer(tail: TopicTail, buffer: EventBuffer) -> EventBuffer:
    tail.buffer = buffer
    buffer.add_partitions({(TOPICS[0], 0): 100, REQUESTS: 1})
    return buffer


def _tail() -> TopicTail:
    return TopicTail(load_settings(_env_file=None), None)  # type: ignore[arg-type]  # only the buffer is read


async def test_a_stream_gets_each_event_once_and_in_order() -> None:
    tail = _tail()
    buffer = _with_buffer(tail, EventBuffer())
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 103, REQUESTS: 1}), EventFilter(), ADMIN)
    for offset in range(100, 110):
        buffer.add(_event(offset))
    buffer.add(_event(105))  # read twice
    sent = await stream.next_messages(0.1)
    buffer.add(_event(110))
    sent += await stream.next_messages(0.1)
    assert [parse_resume_token(message.id)[(TOPICS[0], 0)] for message in sent] == list(range(104, 112))
    assert await stream.next_messages(0.0) == []


async def test_a_stream_that_falls_behind_the_buffer_is_a_slow_consumer() -> None:
    tail = _tail()
    buffer = _with_buffer(tail, EventBuffer(events_max=10))
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 100, REQUESTS: 1}), EventFilter(), ADMIN)
    buffer.add(_event(100))
    assert len(await stream.next_messages(0.1)) == 1
    for offset in range(101, 120):
        buffer.add(_event(offset))
    with pytest.raises(SlowConsumerError):
        await stream.next_messages(0.1)


async def test_dropped_events_are_missing_only_for_positions_before_them() -> None:
    buffer = _with_buffer(_tail(), EventBuffer(bytes_max=4000))
    for offset in range(100, 120):
        buffer.add(_event(offset))
    key = (TOPICS[0], 0)
    first = buffer.first_offsets[key]
    assert 100 < first < 120
    assert buffer.missing(ResumeToken({key: 100, REQUESTS: 1})) == {key: (100, first)}
    assert buffer.missing(ResumeToken({key: first, REQUESTS: 1})) == {}
    assert buffer.end - buffer.first == 120 - first


async def test_a_stream_wakes_up_for_new_events() -> None:
    tail = _tail()
    buffer = _with_buffer(tail, EventBuffer())
    stream = Subscription(tail, ResumeToken({(TOPICS[0], 0): 100, REQUESTS: 1}), EventFilter(site="here"), ADMIN)
    waiting = asyncio.create_task(stream.next_messages(60))
    await asyncio.sleep(0.05)
    buffer.add(_event(100, "elsewhere"))
    buffer.add(_event(101))
    tail._notify()
    assert len(await waiting) == 1
