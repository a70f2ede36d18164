"""How the messages of a fetch pass through Faust, and which offsets are committed."""

import asyncio
import hashlib
import inspect
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from faust.transport.consumer import Consumer
from faust.types import TP

from headrace.runtime.settings import load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.faust.direct_consumer import DirectConsumer, PartitionBatch, consumed_message
from headrace.streams.worker.faust.record_reader import Record
from headrace.streams.worker.profile import SMALL, faust_app

TOPIC = input_topic(Kind.CID).name
PARTITION = TP(TOPIC, 0)
GENERATION = 3
METHODS = {  # of Faust's consumer, and the start of the SHA-256 of each one's source
    "_drain_messages": "44a2500309e83c63",
    "getmany": "4b168d84882a70d6",
    "_wait_next_records": "6218e1969a636b3f",
    "_filter_committable_offsets": "dc5e9baf5d994485",
    "on_partitions_revoked": "d04b7ae72c6fc206",
}


class Delivered:
    """A consumer without a broker, and the batches that it delivers."""

    def __init__(self) -> None:
        self.app = faust_app(load_settings(_env_file=None), SMALL, SMALL.kinds)
        self.app.consumer_generation_id = GENERATION
        self.batches: list[PartitionBatch] = []
        self.consumer: DirectConsumer = self.app.transport.create_consumer(
            callback=self._deliver, on_partitions_revoked=self._deliver, on_partitions_assigned=self._deliver
        )

    async def fetch(self, *offsets: int, active: set[TP] | None = None) -> None:
        records = {PARTITION: [Record(offset, 0, None, None, b"%d" % offset, []) for offset in offsets]}
        await self.consumer._deliver(records, active)

    @property
    def offsets(self) -> list[list[int]]:
        return [[message.offset for message in batch.messages] for batch in self.batches]

    def to_commit(self) -> int | None:
        """The offset that Faust would commit, as if it did."""
        offset = self.consumer._new_offset(PARTITION)
        if offset is not None and self.consumer._should_commit(PARTITION, offset):
            self.consumer._committed_offset[PARTITION] = offset
            return offset
        return None

    async def _deliver(self, batch: Any) -> None:
        await asyncio.sleep(0)
        self.batches.append(batch)


@pytest.fixture
def delivered() -> Iterator[Delivered]:
    made = Delivered()
    yield made
    made.consumer._thread.thread_loop.close()  # its thread, which would close it, was never started


async def test_the_messages_of_a_fetch_are_one_batch_and_read_ones_are_left_out(delivered: Delivered) -> None:
    await delivered.fetch(4, 5, 6)
    await delivered.fetch(5, 6, 7)
    await delivered.fetch(6, 7)
    assert delivered.offsets == [[4, 5, 6], [7]]


async def test_a_partition_that_is_not_read_any_more_is_left_out(delivered: Delivered) -> None:
    await delivered.fetch(4, active={TP(TOPIC, 1)})
    assert delivered.offsets == []


async def test_what_is_fetched_while_nothing_may_flow_is_fetched_again(
    delivered: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeks: list[list[list[int]]] = []

    async def seek() -> None:
        await asyncio.sleep(0)
        seeks.append(delivered.offsets)

    async def fetched(_timeout: float) -> Any:
        await asyncio.sleep(0)
        if seeks:
            raise asyncio.CancelledError
        delivered.consumer.stop_flow()
        return {PARTITION: [Record(4, 0, None, None, b"", [])]}, None

    monkeypatch.setattr(delivered.consumer, "perform_seek", seek)
    monkeypatch.setattr(delivered.consumer, "_wait_next_records", fetched)
    with pytest.raises(asyncio.CancelledError):
        await delivered.consumer._drain_messages(delivered.consumer)
    assert seeks == [[]]


async def test_what_is_finished_is_committed_and_nothing_else(delivered: Delivered) -> None:
    await delivered.fetch(0, 1, 2, 3)
    await delivered.fetch(4, 5)
    first, second = delivered.batches
    assert delivered.to_commit() is None
    first.finish(2)
    assert delivered.to_commit() == 2
    assert delivered.to_commit() is None
    first.finish(4)
    second.finish(6)
    assert list(delivered.consumer._filter_tps_with_pending_acks()) == [PARTITION]
    assert delivered.to_commit() == 6


async def test_what_is_finished_after_a_seek_back_takes_nothing_back(delivered: Delivered) -> None:
    await delivered.fetch(0, 1, 2, 3)
    delivered.batches[0].finish(4)
    delivered.consumer._read_offset[PARTITION] = 0
    await delivered.fetch(0, 1)
    delivered.batches[1].finish(2)
    assert delivered.to_commit() == 4


async def test_a_batch_of_an_older_generation_commits_nothing(delivered: Delivered) -> None:
    await delivered.fetch(0, 1)
    delivered.app.consumer_generation_id = GENERATION + 1
    delivered.batches[0].finish(2)
    assert delivered.to_commit() is None


async def test_faust_acknowledges_nothing_of_a_batch(delivered: Delivered) -> None:
    await delivered.fetch(0, 1)
    batch = delivered.batches[0]
    batch.incref()
    assert not batch.ack(delivered.consumer)
    assert not delivered.consumer._acked
    assert delivered.to_commit() is None


async def test_a_gap_of_millions_of_offsets_costs_nothing(delivered: Delivered) -> None:
    delivered.consumer._committed_offset[PARTITION] = 0
    tracemalloc.start()
    try:
        await delivered.fetch(0, 5_000_000, 5_000_001)
        await delivered.fetch(60_000_000)
        delivered.batches[0].finish(5_000_002)
        assert delivered.to_commit() == 5_000_002
        delivered.batches[1].finish(60_000_001)
        assert delivered.to_commit() == 60_000_001
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_a_batch_is_the_event_of_an_agent_as_it_is(delivered: Delivered) -> None:
    topic = delivered.app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")
    await delivered.fetch(0, 1)
    event = await topic.decode(delivered.batches[0], propagate=True)
    assert event.message is delivered.batches[0]
    assert (event.key, event.value) == (None, None)


@pytest.mark.parametrize(
    ("headers", "pairs"),
    [
        (None, ()),
        ([], ()),
        ([("a", b"1"), ("a", b"2"), ("b", None)], (("a", b"1"), ("a", b"2"), ("b", b""))),
        ((("ä", b"\xff\0"),), (("ä", b"\xff\0"),)),
    ],
)
def test_a_message_keeps_its_place_its_bytes_and_its_headers(headers: Any, pairs: object) -> None:
    message = consumed_message(TP(TOPIC, 2), Record(7, 1_790_000_000_123, None, b"k", None, headers))
    assert message.position == (TOPIC, 2, 7)
    assert message.timestamp_us == 1_790_000_000_123_000
    assert (message.key, message.value, message.headers) == (b"k", None, pairs)


@pytest.mark.parametrize("timestamp_ms", [2**63 - 1, -(2**63), -1, 0, None])
def test_a_time_of_a_producer_is_kept_within_what_the_catalog_holds(timestamp_ms: int | None) -> None:
    message = consumed_message(TP(TOPIC, 2), Record(7, timestamp_ms, None, None, None, []))
    assert -(2**63) <= message.timestamp_us < 2**63


def test_faust_still_does_what_this_relies_on() -> None:
    """Where it fails after an upgrade, read the changed methods, and measure again what decision 6 says."""
    assert {name: digest_of(getattr(Consumer, name)) for name in METHODS} == METHODS


def test_the_compiled_stream_and_conductor_are_loaded() -> None:
    from faust import streams
    from faust.transport import conductor

    assert streams._CStreamIterator is not None
    assert conductor.ConductorHandler is not None


def digest_of(method: Any) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:16]
