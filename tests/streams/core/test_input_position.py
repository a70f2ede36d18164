"""What the offsets of group, topic and catalog mean together, and that offsets without a message cost nothing."""

import asyncio
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from faust.types import TP, ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.settings import load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.core.input_position import CatalogBehind, Continues, InputPosition, Verdict, judge
from headrace.streams.worker.faust.direct_consumer import next_offset
from headrace.streams.worker.profile import SMALL, faust_app

TOPIC = input_topic(Kind.CID).name
PARTITION = TP(TOPIC, 0)
NONE = range(0)


@pytest.mark.parametrize(
    ("position", "verdict"),
    [
        # low, end, committed, next_offset, seen_until
        ((0, 9, None, None, None), Continues(0)),
        ((3, 9, None, None, None), Continues(3)),
        ((0, 9, 5, None, None), Continues(5)),
        ((7, 9, 5, None, None), Continues(7, range(5, 7))),
        ((0, 9, 5, 5, 5), Continues(5)),
        ((0, 9, 5, 7, 7), Continues(7)),  # a crash between the commit and the acknowledgement
        ((0, 9, None, 7, 7), Continues(7)),  # the group's offsets expired
        ((7, 9, 5, 7, 7), Continues(7)),  # deleted, but ingested
        ((8, 9, 5, 7, 7), Continues(8, range(7, 8))),
        ((8, 8, None, 2, 2), Continues(8, range(2, 8))),
        ((0, 9, 6, 5, 5), CatalogBehind(5, 6)),
        ((0, 9, 6, 5, None), CatalogBehind(5, 6)),
        ((7, 9, 6, 5, 5), CatalogBehind(5, 6)),
        ((0, 9, 6, 5, 6), Continues(6)),  # an older worker ingested it
        ((0, 9, None, 10, 10), Continues(0, restarted=True)),
        ((0, 9, 4, 10, 10), Continues(4, restarted=True)),
        ((0, 9, 99, 10, 10), Continues(0, restarted=True)),
        ((2, 9, 99, 5, 5), Continues(5, restarted=True)),
        ((2, 9, 99, None, None), Continues(2, restarted=True)),
    ],
)
def test_the_offsets_of_a_partition_say_whether_the_catalog_went_back(
    position: tuple[int, int, int | None, int | None, int | None], verdict: Verdict
) -> None:
    low, end, committed, next_, seen = position
    judged = judge(InputPosition(low=low, end=end, committed=committed, next_offset=next_, seen_until=seen))
    if isinstance(judged, Continues) and not judged.lost:
        judged = Continues(judged.next_offset, NONE, judged.restarted)
    assert judged == verdict


@pytest.mark.parametrize(("low", "lost"), [(0, range(0)), (2, range(2))])
def test_a_topic_with_another_id_is_read_from_its_start_whatever_the_offsets_say(low: int, lost: range) -> None:
    position = InputPosition(low=low, end=99, committed=7, next_offset=7, seen_until=7, anew=True)
    verdict = judge(position)
    assert isinstance(verdict, Continues)
    assert (verdict.next_offset, list(verdict.lost), verdict.restarted) == (low, list(lost), True)


def done_by_hand(committed: int | None, acked: Sequence[int], gaps: Sequence[range]) -> int | None:
    """The definition: the offset after the last acknowledged one that nothing unfinished precedes."""
    if not acked:
        return None
    finished = set(acked) | {offset for gap in gaps for offset in gap}
    position = first = acked[0] if committed is None else committed
    while position in finished or position < first:
        position += 1
    below = [offset for offset in acked if offset < position]
    done = max(below, default=-1) + 1
    return done if below and done > (committed or 0) else None


@given(
    st.lists(st.sampled_from("agu"), max_size=30),  # acknowledged, no message, unfinished
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_the_offset_to_commit_is_that_of_its_definition(offsets: list[str], committed: int | None) -> None:
    start = committed or 0
    acked = [start + at for at, what in enumerate(offsets) if what == "a"]
    gaps = [range(start + at, start + at + 1) for at, what in enumerate(offsets) if what == "g"]
    left = deque(gaps)
    offset, count = next_offset(committed, acked, left)
    assert offset == done_by_hand(committed, acked, gaps)
    # What is left must not be needed again, and nothing that is needed may be gone.
    assert all(at < (offset or 0) for at in acked[:count])
    assert [gap for gap in gaps if gap.start >= (offset if offset is not None else start)] == list(left)


def message(offset: int) -> ConsumerMessage:
    return ConsumerMessage(
        topic=TOPIC,
        partition=0,
        offset=offset,
        timestamp=0.0,
        timestamp_type=0,
        headers={},
        key=None,
        value=b"",
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        tp=PARTITION,
    )


async def test_a_gap_of_millions_of_offsets_costs_nothing() -> None:
    app = faust_app(load_settings(_env_file=None), SMALL, SMALL.kinds)
    app.topics.acks_enabled_for = lambda _topic: True
    delivered: list[Any] = []

    async def deliver(received: Any) -> None:
        await asyncio.sleep(0)
        delivered.append(received)

    consumer = app.transport.create_consumer(
        callback=deliver, on_partitions_revoked=deliver, on_partitions_assigned=deliver
    )

    async def fetched() -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        for offset in (0, 5_000_000, 5_000_001, 60_000_000):
            yield PARTITION, message(offset)

    consumer._read_offset[PARTITION] = consumer._committed_offset[PARTITION] = 0
    tracemalloc.start()
    try:
        await consumer._deliver(fetched())
        for received in delivered[:-1]:
            consumer.ack(received)
        assert consumer._new_offset(PARTITION) == 5_000_002
        consumer._committed_offset[PARTITION] = 5_000_002
        assert consumer._new_offset(PARTITION) is None
        consumer.ack(delivered[-1])
        assert consumer._new_offset(PARTITION) == 60_000_001
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
        consumer._thread.thread_loop.close()  # its thread, which would close it, was never started
