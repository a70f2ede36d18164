"""Header names are bytes to Kafka: whatever they hold, every message of the partition is read."""

from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from headrace.streams.worker.faust.header_decoding import _Records
from tests.streams.streams_batches import Pairs, builder

PLACE = TopicPartition("edge.frames.v1", 0)
NAMES = st.binary(max_size=12)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=12)), max_size=3)


def read(raw: bytes, fetch_offset: int = 0) -> list[Any]:
    """As aiokafka's fetcher reads what the broker sent."""
    return list(fetcher.PartitionRecords(PLACE, _Records(raw), [], fetch_offset, None, None, True, "read_uncommitted"))


def raw_batch(messages: list[tuple[bytes | None, Pairs]], compression: int = 0) -> bytes:
    return bytes(builder(messages, compression=compression).build())


@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_a_name_that_is_no_text_is_shown_escaped_and_nothing_is_skipped(compression: int) -> None:
    raw = raw_batch(
        [
            (b"0", [(b"a", b"1")]),
            (b"1", [(b"\xff\x00", b"\xfe"), (b"b", None)]),
            (None, []),
            (b"3", [(b"\xc3\xa4", b"")]),
        ],
        compression,
    )
    records = read(raw)
    assert [record.offset for record in records] == [0, 1, 2, 3]
    assert [record.value for record in records] == [b"0", b"1", None, b"3"]
    assert [record.key for record in records] == [b"key"] * 4
    assert [list(record.headers) for record in records] == [
        [("a", b"1")],
        [("\\xff\x00", b"\xfe"), ("b", None)],
        [],
        [("ä", b"")],
    ]


def test_several_batches_of_a_fetch_are_read_and_what_was_read_before_is_not_read_again() -> None:
    raw = raw_batch([(b"0", []), (b"1", [(b"\xff", b"")]), (b"2", [])])
    records = read(raw, fetch_offset=2)
    assert [record.value for record in records] == [b"2"]


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


def test_what_is_broken_in_another_way_is_still_an_error() -> None:
    raw = bytearray(raw_batch([(b"value", [])]))
    raw[-1] ^= 1
    with pytest.raises(Exception, match="Invalid CRC"):
        read(bytes(raw))
