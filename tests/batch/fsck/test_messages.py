"""Since when the ingested topics hold everything: where that is not known, nothing may be announced again."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from confluent_kafka import KafkaError, TopicPartition

from headrace.batch.fsck import messages
from headrace.batch.fsck.announcements import check_topics
from headrace.batch.fsck.findings import FsckReport
from headrace.batch.fsck.messages import CLOCKS_APART_S_MAX, TopicMessages
from headrace.runtime import topic_reader
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.catalog.fsck_queries import FsckQueries

TOPIC = "ingested.frames.v1"
FIRST_MS = 1_790_000_000_000
MARGIN_US = CLOCKS_APART_S_MAX * 1_000_000


class Partition:
    """A consumer of one partition, which gives one answer."""

    def __init__(self, low: int, high: int, answer: object = None) -> None:
        self._marks = low, high
        self._answer = answer

    def list_topics(self, **_: object) -> object:
        return SimpleNamespace(topics={TOPIC: SimpleNamespace(partitions=[0])})

    def get_watermark_offsets(self, _place: TopicPartition, **_: object) -> tuple[int, int]:
        return self._marks

    def assign(self, _places: list[TopicPartition]) -> None:
        pass

    def consume(self, _messages_max: int, _timeout_s: float) -> list[object]:
        return [] if self._answer is None else [self._answer]

    def close(self) -> None:
        pass


def message(error: KafkaError | None = None) -> object:
    """The first message of the partition, or what librdkafka reports in its place: its end is offset 9."""
    return SimpleNamespace(
        error=lambda: error,
        timestamp=lambda: (2, FIRST_MS),
        topic=lambda: TOPIC,
        partition=lambda: 0,
        offset=lambda: 3 if error is None else 9,
    )


def since_us(monkeypatch: pytest.MonkeyPatch, partition: Partition) -> int:
    monkeypatch.setattr(topic_reader, "Consumer", lambda _config: partition)
    monkeypatch.setattr(messages, "FIRST_MESSAGE_S_MAX", 0.2)
    return TopicMessages(Settings(_env_file=None)).complete_since_us()


def test_where_nothing_was_removed_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert since_us(monkeypatch, Partition(0, 9)) == 0


def test_the_first_message_says_since_when_and_clocks_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert since_us(monkeypatch, Partition(3, 9, message())) == FIRST_MS * 1000 + MARGIN_US


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "kafka_unreachable"),
        (message(KafkaError(KafkaError._TRANSPORT)), "kafka_unreachable"),
        (message(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), "acl_missing"),
    ],
    ids=["silence", "away", "refused"],
)
def test_a_broker_that_does_not_say_is_an_error(monkeypatch: pytest.MonkeyPatch, answer: object, code: str) -> None:
    with pytest.raises(HeadraceError) as caught:
        since_us(monkeypatch, Partition(3, 9, answer))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "partition",
    [Partition(9, 9), Partition(3, 9, message(KafkaError(KafkaError._PARTITION_EOF)))],
    ids=["empty", "only markers of transactions"],
)
def test_where_nothing_is_left_the_topic_is_complete_since_now(
    monkeypatch: pytest.MonkeyPatch, partition: Partition
) -> None:
    before_us = time.time_ns() // 1_000_000 * 1000
    assert since_us(monkeypatch, partition) >= before_us + MARGIN_US


class Shrinking:
    """Topics that lose a segment while they are read."""

    def __init__(self) -> None:
        self._since_us = 1_000

    def complete_since_us(self) -> int:
        return self._since_us

    def announcements(self) -> Iterator[list[Any]]:
        self._since_us = 2_000
        yield []


class Asked:
    """Queries that note since when it is asked for."""

    since_us = 0

    async def now_us(self) -> int:
        return 9_000

    async def published_records(self, *, before_us: int, since_us: int) -> Any:
        assert before_us == 9_000
        self.since_us = since_us
        for record in ():
            yield cast("UUID", record), "frame"


async def test_what_was_removed_during_the_reading_is_not_missed() -> None:
    asked = Asked()
    await check_topics(cast("FsckQueries", asked), cast("TopicMessages", Shrinking()), FsckReport())
    assert asked.since_us == 2_000
