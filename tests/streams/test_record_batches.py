"""Whatever a broker holds, every message of a partition is read, or stands as raw bytes at its offset."""

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.record.legacy_records import _LegacyRecordBatchBuilderPy
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas.events import Kind
from headrace.schemas.limits import HEADERS_MAX, KIB, MIB
from headrace.schemas.reject import RejectCode
from headrace.streams.core.delivery import UnreadableBytes, held_bytes
from headrace.streams.core.examine import RejectedDelivery, examine
from headrace.streams.worker.faust.record_batches import Batches, BoundedFetchResult, PartitionRecords
from headrace.streams.worker.faust.record_reader import RecordReader
from tests.fuzzing.varints import written
from tests.streams.streams_batches import (
    ATTRIBUTES_AT,
    COUNT_AT,
    HEADER_BYTES,
    Pairs,
    batch_of,
    builder,
    raw_batch,
    record_of,
    resealed,
)
from tests.streams.streams_samples import raw_delivery

PLACE = TopicPartition("edge.frames.v1", 0)
NAMES = st.binary(max_size=12)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=12)), max_size=3)
CODECS = {"plain": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Broker:
    """A fetch as aiokafka's fetcher reads it, with what this process remembers between fetches."""

    def __init__(self, *, record_bytes_max: int = MIB, batch_bytes_max: int = 4 * MIB) -> None:
        self.reader = RecordReader(record_bytes_max=record_bytes_max, batch_bytes_max=batch_bytes_max)
        self.suspects: deque[bytes] = deque(maxlen=8)
        self.next_offset = 0

    def records(self, raw: bytes, fetch_offset: int = 0, *, aborted: Sequence[Any] = (), crcs: bool = True) -> Any:
        batches = Batches(raw, self.reader, self.suspects)
        return PartitionRecords(PLACE, batches, list(aborted), fetch_offset, None, None, crcs, "read_committed")

    def fetch(self, raw: bytes, fetch_offset: int = 0, **how: Any) -> list[Any]:
        records = self.records(raw, fetch_offset, **how)
        fetched = list(records)
        self.next_offset = records.next_fetch_offset
        return fetched


def read(raw: bytes, fetch_offset: int = 0, **limits: int) -> list[Any]:
    return Broker(**limits).fetch(raw, fetch_offset)


def unreadable(record: Any) -> UnreadableBytes:
    assert isinstance(record.value, UnreadableBytes)
    return record.value


@pytest.mark.parametrize("compression", CODECS.values(), ids=CODECS)
def test_a_name_that_is_no_text_is_shown_escaped_and_nothing_is_skipped(compression: int) -> None:
    raw = raw_batch(
        [
            (b"0", [(b"a", b"1")]),
            (b"1", [(b"\xff\x00", b"\xfe"), (b"b", None)]),
            (None, []),
            (b"3" * 999, [(b"\xc3\xa4", b"")]),
        ],
        compression,
    )
    assert raw[ATTRIBUTES_AT + 1] == compression
    records = read(raw)
    assert [record.offset for record in records] == [0, 1, 2, 3]
    assert [record.value for record in records] == [b"0", b"1", None, b"3" * 999]
    assert [record.key for record in records] == [b"key"] * 4
    assert [record.timestamp for record in records] == [1_790_000_000_000] * 4
    assert [list(record.headers) for record in records] == [
        [("a", b"1")],
        [("\\xff\x00", b"\xfe"), ("b", None)],
        [],
        [("ä", b"")],
    ]


def test_several_batches_of_a_fetch_are_read_and_what_was_read_before_is_not_read_again() -> None:
    raw = raw_batch([(b"0", []), (b"1", [(b"\xff", b"")]), (b"2", [])])
    assert [record.value for record in read(raw, fetch_offset=2)] == [b"2"]


@given(messages=st.lists(st.tuples(st.none() | st.binary(max_size=20), HEADERS), min_size=1, max_size=6))
def test_every_message_comes_out_with_its_bytes_whatever_its_headers_are(
    messages: list[tuple[bytes | None, Pairs]],
) -> None:
    records = read(raw_batch(messages))
    assert [(record.offset, record.value) for record in records] == [
        (number, value) for number, (value, _) in enumerate(messages)
    ]
    for record, (_, pairs) in zip(records, messages, strict=True):
        assert [value for _, value in record.headers] == [value for _, value in pairs]
        assert [name for name, _ in record.headers] == [name.decode("utf-8", "backslashreplace") for name, _ in pairs]


@pytest.mark.parametrize("compression", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("size_bytes", [0, 1, 300 * KIB])
def test_small_and_large_messages_of_every_codec_are_read(compression: int, size_bytes: int) -> None:
    values = [bytes([number]) * size_bytes for number in range(3)]
    batch = builder([], compression=compression)
    batch._batch_size = 10 * MIB
    for number, value in enumerate(values):
        batch.append(number, 1_790_000_000_000 + number, None, value, [("n", b"%d" % number)])
    records = read(bytes(batch.build()))
    assert [record.value for record in records] == values
    assert [record.key for record in records] == [None] * 3
    assert [record.timestamp - 1_790_000_000_000 for record in records] == [0, 1, 2]
    assert [record.headers for record in records] == [(("n", b"0"),), (("n", b"1"),), (("n", b"2"),)]


@pytest.mark.parametrize("framed", [True, False], ids=["as Java writes it", "as librdkafka writes it"])
def test_both_forms_of_snappy_are_read(framed: bool) -> None:
    raw = raw_batch([(bytes(100_000), []), (b"1", [])])
    packed = codec.snappy_encode(raw[HEADER_BYTES:], xerial_compatible=framed)
    records = read(resealed(raw[:ATTRIBUTES_AT] + b"\0\2" + raw[ATTRIBUTES_AT + 2 : HEADER_BYTES] + packed))
    assert [record.value for record in records] == [bytes(100_000), b"1"]


@pytest.mark.parametrize(("version", "compression"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)], ids=str)
def test_messages_of_old_formats_are_read_among_new_ones(version: int, compression: int) -> None:
    old = _LegacyRecordBatchBuilderPy(version, compression, 10**6)
    for number, value in enumerate((b"0", None, b"2" * 1000)):
        old.append(number, 1_790_000_000_000, b"key" if number else None, value)
    raw = bytearray(old.build())
    if compression:
        struct.pack_into(">q", raw, 0, 2)  # a broker gives the outer message the last offset
    records = read(bytes(raw) + raw_batch([(b"3", [])], base_offset=3))
    assert [(record.offset, record.value) for record in records] == [
        (0, b"0"),
        (1, None),
        (2, b"2" * 1000),
        (3, b"3"),
    ]
    assert [record.key for record in records] == [None, b"key", b"key", b"key"]
    assert {record.timestamp for record in records[:3]} == {1_790_000_000_000 if version else None}


def test_a_batch_that_compaction_emptied_and_one_with_gaps_are_passed() -> None:
    empty = batch_of([], last_delta=4)
    gaps = batch_of([record_of(b"6", offset_delta=1), record_of(b"9", offset_delta=4)], last_delta=5, base_offset=5)
    broker = Broker()
    assert [(record.offset, record.value) for record in broker.fetch(empty + gaps)] == [(6, b"6"), (9, b"9")]
    assert broker.next_offset == 11


GOOD = raw_batch([(b"a" * 99, []), (b"b" * 99, []), (b"c" * 99, [])], 1, base_offset=10)
UNREADABLE = {
    "a codec that nobody has": resealed(GOOD, at=ATTRIBUTES_AT, put=b"\0\7"),
    "zstd that is gzip": resealed(GOOD, at=ATTRIBUTES_AT, put=b"\0\4"),
    "lz4 that is gzip": resealed(GOOD, at=ATTRIBUTES_AT, put=b"\0\3"),
    "snappy that is gzip": resealed(GOOD, at=ATTRIBUTES_AT, put=b"\0\2"),
    "snappy with a block that goes on": resealed(
        GOOD[:ATTRIBUTES_AT] + b"\0\2" + GOOD[ATTRIBUTES_AT + 2 : HEADER_BYTES] + codec.snappy_encode(b"a" * 50)[:-1]
    ),
    "gzip that ends early": resealed(GOOD[:-20]),
    "nothing compressed": resealed(GOOD[:HEADER_BYTES]),
    "not compressed at all": resealed(GOOD, at=ATTRIBUTES_AT, put=b"\0\0"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_batch_that_cannot_be_read_is_one_message_and_the_next_batch_is_read(case: str) -> None:
    raw = UNREADABLE[case]
    around = raw_batch([(b"9", [])], base_offset=9), raw_batch([(b"13", [])], base_offset=13)
    fetch = around[0] + raw + around[1]
    records = read(fetch, 9)
    before, *bad, after = records
    assert (before.value, after.value) == (b"9", b"13")
    assert bad[-1].offset == 12
    assert bytes(unreadable(bad[-1])) == raw
    assert "10 to 12" in unreadable(bad[-1]).reason
    # The committed offset may lie anywhere in the batch: the dead letter is the same one.
    assert [(record.offset, record.value) for record in read(raw + around[1], 12)] == [(12, raw), (13, b"13")]
    rejected = examine(Kind.FRAME, raw_delivery(Kind.FRAME, bad[-1].value))
    assert isinstance(rejected, RejectedDelivery)
    assert rejected.code is RejectCode.UNDECODABLE


@pytest.mark.parametrize("count", [4, 2**31 - 1, -1, -(2**31)])
def test_a_count_that_is_not_that_of_the_messages_hides_none_of_them(count: int) -> None:
    raw = resealed(raw_batch([(b"a", []), (b"b", [])]), at=COUNT_AT, put=struct.pack(">i", count))
    records = read(raw)
    assert records[-1].offset == 1
    if count > 0:
        assert [record.value for record in records] == [b"a", b"b"]
    else:
        assert bytes(unreadable(records[0])) == raw


def test_a_damaged_record_is_one_message_and_the_records_after_it_are_read() -> None:
    body = b"\0" + written(0) + written(1) + written(-1) + written(99) + b"short"
    damaged = written(len(body)) + body
    records = read(batch_of([record_of(b"0", offset_delta=0), damaged, record_of(b"2", offset_delta=2)], last_delta=2))
    assert [record.offset for record in records] == [0, 1, 2]
    assert [records[0].value, records[2].value] == [b"0", b"2"]
    assert bytes(unreadable(records[1])) == body


@pytest.mark.parametrize("deltas", [(0, 1, 10**6), (1, 0, 2), (0, 0, 0), (2, 1, 0), (10**6, 10**6, 10**6), (-5, 1, 2)])
def test_offsets_that_are_not_the_batchs_own_hide_no_message(deltas: tuple[int, ...]) -> None:
    raw = batch_of([record_of(b"x", offset_delta=delta) for delta in deltas], last_delta=2)
    broker = Broker()
    records = broker.fetch(raw + raw_batch([(b"3", [])], base_offset=3))
    assert [record.offset for record in records][-2:] == [2, 3]
    assert bytes(unreadable(records[-2])) == raw
    assert records[-1].value == b"3"
    assert broker.next_offset == 4


@pytest.mark.parametrize("compression", [0, 1])
def test_a_batch_whose_crc_is_wrong_is_fetched_again_and_then_set_aside(compression: int) -> None:
    damaged = bytearray(raw_batch([(b"1", []), (b"2", [])], compression, base_offset=1))
    damaged[-1] ^= 1
    fetch = raw_batch([(b"0", [])]) + bytes(damaged) + raw_batch([(b"3", [])], base_offset=3)
    broker = Broker()
    assert [record.value for record in broker.fetch(fetch)] == [b"0"]
    assert broker.next_offset == 1
    healed = raw_batch([(b"1", []), (b"2", [])], compression, base_offset=1)
    assert [record.value for record in Broker().fetch(healed, 1)] == [b"1", b"2"]
    assert [(record.offset, record.value) for record in broker.fetch(fetch, 1)] == [(2, bytes(damaged)), (3, b"3")]


@pytest.mark.parametrize("compression", [0, 1])
def test_an_old_message_whose_crc_is_wrong_is_fetched_again_and_then_set_aside(compression: int) -> None:
    old = _LegacyRecordBatchBuilderPy(1, compression, 10**6)
    old.append(0, 1_790_000_000_000, None, b"0")
    raw = bytearray(old.build())
    raw[-1] ^= 1
    broker = Broker()
    assert broker.fetch(bytes(raw)) == []
    assert broker.next_offset == 0
    (record,) = broker.fetch(bytes(raw))
    assert (record.offset, bytes(unreadable(record))) == (0, bytes(raw))


@pytest.mark.parametrize("length", [-12, -(2**31), 0, 5, 13, 20, 48])
def test_a_batch_that_is_too_short_for_its_header_ends_no_process(length: int) -> None:
    raw = struct.pack(">qi", 7, length) + b"\0\0\0\0\2" + bytes(max(0, length - 5))
    broker = Broker()
    records = broker.fetch(raw, 7, crcs=False)
    assert len(records) <= 1
    assert all(record.offset == 7 for record in records)
    assert broker.next_offset in {7, 8}


def test_what_expands_beyond_the_limit_is_set_aside_as_it_came() -> None:
    batch = builder([], compression=1)
    batch._batch_size = 10 * MIB
    for number in range(5):
        batch.append(number, 1, None, bytes(MIB), [])
    raw = bytes(batch.build())
    assert len(raw) < 10 * KIB
    (record,) = read(raw, record_bytes_max=2 * MIB, batch_bytes_max=4 * MIB)
    assert record.offset == 4
    assert bytes(unreadable(record)) == raw


@pytest.mark.parametrize("compression", CODECS.values(), ids=CODECS)
def test_a_message_beyond_its_limit_is_set_aside_with_its_batch_and_the_others_are_read(compression: int) -> None:
    batch = builder([], compression=compression)
    batch._batch_size = 10 * MIB
    for number, size_bytes in enumerate((1, 2 * MIB, 1)):
        batch.append(number, 1, None, bytes(size_bytes), [])
    raw = bytes(batch.build())
    records = read(raw, record_bytes_max=MIB)
    assert [record.offset for record in records] == [0, 1, 2]
    assert (unreadable(records[1]).code, bytes(unreadable(records[1]))) == (RejectCode.TOO_LARGE, raw)
    assert records[2].value == b"\0"


@pytest.mark.parametrize("payload_bytes", [1, 300 * KIB], ids=["small batch", "large batch"])
def test_more_headers_than_memory_should_hold_set_the_message_aside(payload_bytes: int) -> None:
    many = written(HEADERS_MAX + 1) + (written(0) + written(-1)) * (HEADERS_MAX + 1)
    most = written(HEADERS_MAX) + (written(0) + written(-1)) * HEADERS_MAX
    value = bytes(payload_bytes)
    records = read(
        batch_of(
            [record_of(value, offset_delta=0, headers=many), record_of(value, offset_delta=1, headers=most)],
            last_delta=1,
        )
    )
    assert unreadable(records[0]).code is RejectCode.TOO_LARGE
    assert records[0].headers == ()
    assert len(records[1].headers) == HEADERS_MAX


def test_messages_of_an_old_format_have_the_same_limit() -> None:
    old = _LegacyRecordBatchBuilderPy(1, 1, 10 * MIB)
    old.append(0, 1, None, bytes(2 * MIB))
    (record,) = read(bytes(old.build()), record_bytes_max=MIB)
    assert unreadable(record).code is RejectCode.TOO_LARGE


async def test_a_fetch_is_handed_over_in_parts_and_none_of_it_is_lost_or_repeated() -> None:
    class InParts(BoundedFetchResult):
        drained_bytes_max = 5000

    raw = b"".join(raw_batch([(b"%d" % n * 900, [(b"a", b"")]) for n in range(4)], 1, 4 * batch) for batch in range(3))
    assignment = Assignment([PLACE])
    assignment.state_value(PLACE).reset_to(0)
    result = InParts(PLACE, assignment=assignment, partition_records=Broker().records(raw), backoff=0)
    parts = []
    while result.has_more():
        parts.append(result.getall())
        assert assignment.state_value(PLACE).position == parts[-1][-1].offset + 1 if parts[-1] else 12
    assert [record.offset for part in parts for record in part] == list(range(12))
    assert max(len(part) for part in parts) == 5


def test_what_is_held_counts_headers_with_what_python_adds_to_each() -> None:
    assert held_bytes(b"123", b"12345", ()) == 8
    assert held_bytes(None, None, None) == 0
    assert held_bytes(None, b"", [("name", b"value"), ("", None)]) == 2 * 150 + 9


def test_an_unreadable_message_is_rejected_with_its_own_code_and_reason() -> None:
    message = raw_delivery(Kind.CID, UnreadableBytes.of(b"raw", RejectCode.TOO_LARGE, "it is too large"))
    rejected = examine(Kind.CID, replace(message, key=None))
    assert isinstance(rejected, RejectedDelivery)
    assert (rejected.code, rejected.reason, rejected.origin) == (RejectCode.TOO_LARGE, "it is too large", None)


def test_the_readers_take_the_place_of_aiokafkas() -> None:
    from headrace.streams.worker.faust.record_batches import read_any_batch

    kept = fetcher.MemoryRecords, fetcher.PartitionRecords, fetcher.FetchResult
    try:
        read_any_batch(record_bytes_max=MIB, drained_bytes_max=KIB)
        assert isinstance(fetcher.MemoryRecords(GOOD), Batches)
        assert issubclass(fetcher.FetchResult, BoundedFetchResult)
        read_any_batch(record_bytes_max=MIB, drained_bytes_max=2 * KIB)
        assert fetcher.FetchResult.drained_bytes_max == 2 * KIB
    finally:
        fetcher.MemoryRecords, fetcher.PartitionRecords, fetcher.FetchResult = kept
