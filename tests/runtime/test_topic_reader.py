"""A bounded read against a scripted consumer; the tests of fsck, export, relay and gateway read from a real broker."""

import gc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from headrace.runtime import topic_reader
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import (
    NO_END,
    TopicReader,
    headers_of,
    offset_bounds,
    partitions_of,
    reading_consumer,
)
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from tests.streams.streams_batches import publish

A, B = ("topic", 0), ("topic", 1)
EOF = KafkaError(KafkaError._PARTITION_EOF)


@dataclass
class ScriptedMessage:
    key: tuple[str, int]
    at: int
    fault: KafkaError | None = None

    def topic(self) -> str:
        return self.key[0]

    def partition(self) -> int:
        return self.key[1]

    def offset(self) -> int:
        return self.at

    def error(self) -> KafkaError | None:
        return self.fault


class ScriptedConsumer:
    """Returns one list of messages for each call."""

    def __init__(self, *batches: list[ScriptedMessage]) -> None:
        self._batches = list(batches)
        self.assigned: list[tuple[str, int, int]] = []

    def assign(self, partitions) -> None:
        self.assigned = [(partition.topic, partition.partition, partition.offset) for partition in partitions]

    def consume(self, _messages_max: int, _wait_s: float) -> list[ScriptedMessage]:
        return self._batches.pop(0) if self._batches else []


def reader(consumer: ScriptedConsumer, ranges, **more) -> TopicReader:
    return TopicReader(cast("Consumer", consumer), ranges, **more)


def offsets(messages: list[Message]) -> list[int | None]:
    return [message.offset() for message in messages]


def test_it_reads_each_partition_from_its_start_to_its_end():
    consumer = ScriptedConsumer(
        [ScriptedMessage(A, 3), ScriptedMessage(B, 0)], [], [ScriptedMessage(A, 4), ScriptedMessage(A, 5)]
    )
    reading = reader(consumer, {A: (3, 5), B: (0, 1)})
    assert consumer.assigned == [("topic", 0, 3), ("topic", 1, 0)]
    assert offsets(list(reading)) == [3, 0, 4]  # offset 5 came after the reading began
    assert reading.unfinished == []
    assert reading.next_offsets == {A: 5, B: 1}
    assert reading.read() == []


def test_a_message_that_comes_again_is_returned_once():
    consumer = ScriptedConsumer([ScriptedMessage(A, 0), ScriptedMessage(A, 0)], [ScriptedMessage(A, 1)])
    assert offsets(list(reader(consumer, {A: (0, 2)}))) == [0, 1]


def test_an_empty_partition_is_not_read():
    reading = reader(consumer := ScriptedConsumer(), {A: (7, 7)})
    assert list(reading) == []
    assert consumer.assigned == []
    assert reading.next_offsets == {A: 7}


def test_the_end_may_be_a_control_record():
    reading = reader(ScriptedConsumer([ScriptedMessage(A, 0)], [ScriptedMessage(A, 2, EOF)]), {A: (0, 2)})
    assert offsets(reading.read()) == [0]
    assert reading.unfinished == [A]
    assert reading.read() == []
    assert reading.unfinished == []
    assert reading.next_offsets == {A: 2}


def test_an_open_transaction_before_the_end_is_waited_for():
    consumer = ScriptedConsumer([ScriptedMessage(A, 1, EOF)], [ScriptedMessage(A, 1)])
    reading = reader(consumer, {A: (0, 2)})
    assert reading.read() == []
    assert reading.unfinished == [A]
    assert offsets(reading.read()) == [1]
    assert reading.unfinished == []


def test_silence_ends_the_reading(monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(topic_reader, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    reading = reader(ScriptedConsumer(), {A: (0, 2)}, silence_s_max=30)
    assert reading.read() == []
    with pytest.raises(KafkaException) as caught:
        reading.read()
    assert caught.value.args[0].code() == KafkaError._TIMED_OUT


def test_an_error_is_raised_or_given_to_the_caller():
    fault = KafkaError(KafkaError._TRANSPORT)
    with pytest.raises(KafkaException):
        reader(ScriptedConsumer([ScriptedMessage(A, 0, fault)]), {A: (0, 2)}).read()
    errors: list[KafkaError] = []
    consumer = ScriptedConsumer([ScriptedMessage(A, 0, fault), ScriptedMessage(A, 0)])
    assert offsets(reader(consumer, {A: (0, 2)}, on_error=errors.append).read()) == [0]
    assert errors == [fault]


def test_without_an_end_it_reads_on():
    consumer = ScriptedConsumer([ScriptedMessage(A, 0)], [ScriptedMessage(A, 1, EOF)], [ScriptedMessage(A, 1)])
    reading = reader(consumer, {A: (0, NO_END)}, silence_s_max=None)
    assert [offsets(reading.read()) for _ in range(3)] == [[0], [], [1]]
    assert reading.unfinished == [A]


def test_a_topic_that_does_not_exist_and_a_broker_that_does_not_answer_are_errors():
    missing = SimpleNamespace(error=KafkaError(KafkaError._UNKNOWN_TOPIC), partitions={})
    consumer = SimpleNamespace(
        list_topics=lambda topic, **_: SimpleNamespace(topics={topic: missing}),
        get_watermark_offsets=lambda _, **__: None,
    )
    with pytest.raises(KafkaException):
        partitions_of(cast("Consumer", consumer), "topic")
    with pytest.raises(KafkaException):
        offset_bounds(cast("Consumer", consumer), [A])


@pytest.mark.parametrize(
    "code", [KafkaError._UNKNOWN_PARTITION, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._TRANSPORT]
)
def test_a_partition_without_a_leader_is_waited_for_until_the_deadline(code: int) -> None:
    answers = iter([KafkaException(KafkaError(code)), KafkaException(KafkaError(code)), (3, 7)])

    def offsets_of(*_: object, **__: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def missing(*_: object, **__: object) -> object:
        raise KafkaException(KafkaError(code))

    assert offset_bounds(cast("Consumer", SimpleNamespace(get_watermark_offsets=offsets_of)), [A]) == {A: (3, 7)}
    with pytest.raises(KafkaException) as caught:
        offset_bounds(cast("Consumer", SimpleNamespace(get_watermark_offsets=missing)), [A], timeout_s=0.3)
    assert caught.value.args[0].code() == code


class ForeignMessage:
    """A message with a header name that is not UTF-8, as the binding treats it."""

    def headers(self) -> list[tuple[str, bytes]]:
        if gc.isenabled():
            return []  # a collection may discard the exception
        raise SystemError("<method 'headers'> returned a result with an exception set")


def test_a_header_name_that_is_not_utf_8_is_no_header_at_all() -> None:
    assert headers_of(ForeignMessage()) is None  # type: ignore[arg-type]
    assert gc.isenabled()


@pytest.mark.stack
async def test_thousands_of_names_that_are_not_utf_8_are_no_headers_at_all(stack_settings: Settings) -> None:
    """Also once the interpreter has specialized the call: then it does not look for an exception after it."""
    topic = input_topic(Kind.CLIP).name
    first = await publish(stack_settings, topic, [(b"", [(b"\xff\x00", b"1")])] * 3000)
    with reading_consumer(stack_settings, "test-names") as consumer:
        messages = list(TopicReader(consumer, {(topic, 0): (first, first + 3000)}))
    assert {headers_of(message) is None for message in messages} == {True}
    assert len(messages) == 3000
    assert gc.isenabled()
