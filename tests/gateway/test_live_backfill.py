"""A backfill against a scripted consumer; test_live_events reads from a real broker."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from headrace.gateway.live import announcements
from headrace.gateway.live.announcements import Backfill, MissedRange, read_backfill
from headrace.gateway.live.resume_token import TOPICS
from headrace.runtime.settings import Settings, load_settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Ingested

A, B = (TOPICS[0], 0), (TOPICS[0], 1)
ANNOUNCEMENT = encode(
    Ingested(
        source_id="camera",
        site="plant",
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
)


@dataclass
class BackfillMessage:
    key: tuple[str, int]
    at: int
    body: bytes = ANNOUNCEMENT
    fault: KafkaError | None = None

    def topic(self) -> str:
        return self.key[0]

    def partition(self) -> int:
        return self.key[1]

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes:
        return self.body

    def error(self) -> KafkaError | None:
        return self.fault


class BackfillConsumer:
    """Returns one message for each call."""

    def __init__(self, bounds: Mapping[tuple[str, int], tuple[int, int]], messages: list[BackfillMessage]) -> None:
        self._bounds = bounds
        self._messages = list(messages)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = [(partition.topic, partition.partition, partition.offset) for partition in partitions]

    def get_watermark_offsets(self, partition: TopicPartition, **_: object) -> tuple[int, int]:
        return self._bounds[partition.topic, partition.partition]

    def consume(self, _messages_max: int, _wait_s: float) -> list[BackfillMessage]:
        return [self._messages.pop(0)] if self._messages else []


def backfill(monkeypatch: pytest.MonkeyPatch, consumer: BackfillConsumer, missing: dict[Any, Any]) -> Backfill:
    @contextmanager
    def scripted(_settings: Settings, _group_id: str, **options: Any) -> Iterator[BackfillConsumer]:
        assert options["auto_offset_reset"] == "error"
        yield consumer

    monkeypatch.setattr(announcements, "reading_consumer", scripted)
    return read_backfill(load_settings(_env_file=None), missing, threading.Event())


def test_each_partition_is_read_up_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [BackfillMessage(A, 5), BackfillMessage(B, 0, b"not an announcement"), BackfillMessage(A, 6)]
    consumer = BackfillConsumer({A: (0, 90), B: (0, 1)}, messages)
    result = backfill(monkeypatch, consumer, {A: (5, 7), B: (0, 1)})
    assert consumer.assigned == [(*A, 5), (*B, 0)]
    assert [(event.key, event.offset) for event in result.events] == [(A, 5), (A, 6)]
    assert (result.next_offsets, result.lost) == ({A: 7, B: 1}, [])


def test_deleted_offsets_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = BackfillConsumer({A: (8, 90), B: (50, 90)}, [BackfillMessage(A, 8)])
    result = backfill(monkeypatch, consumer, {A: (5, 9), B: (5, 9)})
    assert consumer.assigned == [(*A, 8)]
    assert result.lost == [MissedRange(A, 5, 8), MissedRange(B, 5, 9)]
    assert result.next_offsets == {A: 9, B: 9}


def test_a_partition_that_ends_before_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = BackfillConsumer({A: (0, 3)}, [BackfillMessage(A, 2)])
    result = backfill(monkeypatch, consumer, {A: (2, 9)})
    assert [event.offset for event in result.events] == [2]
    assert result.next_offsets == {A: 9}


def test_offsets_that_are_deleted_while_reading_are_left_to_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted = BackfillMessage(A, 6, fault=KafkaError(KafkaError._AUTO_OFFSET_RESET))
    consumer = BackfillConsumer({A: (0, 90)}, [BackfillMessage(A, 5), deleted, BackfillMessage(A, 80)])
    result = backfill(monkeypatch, consumer, {A: (5, 90)})
    assert [event.offset for event in result.events] == [5]
    assert (result.next_offsets, result.lost) == ({A: 6}, [])


def test_a_call_returns_a_limited_number_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "BACKFILL_EVENTS_MAX", 2)
    consumer = BackfillConsumer({A: (0, 90)}, [BackfillMessage(A, offset) for offset in range(5, 90)])
    result = backfill(monkeypatch, consumer, {A: (5, 90)})
    assert [event.offset for event in result.events] == [5, 6]
    assert result.next_offsets == {A: 7}


def test_a_silent_broker_is_an_error_unless_something_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "BACKFILL_S_MAX", -1.0)
    with pytest.raises(KafkaException):
        backfill(monkeypatch, BackfillConsumer({A: (0, 90)}, []), {A: (5, 90)})
    result = backfill(monkeypatch, BackfillConsumer({A: (8, 90)}, []), {A: (5, 90)})
    assert (result.lost, result.next_offsets) == ([MissedRange(A, 5, 8)], {A: 8})
