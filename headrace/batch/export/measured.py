"""What preprocessing measured in frames, as its topic holds it: the catalog has none of it."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias
from uuid import UUID

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.batch.export.request import MEASURES, Bound, is_within
from headrace.runtime.kafka import client_config, kafka_unreachable
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import PreprocessedFrame
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PREPROCESSED

Quality: TypeAlias = dict[str, float | int]

_REQUEST_S = 10.0
_SILENCE_S_MAX = 30.0
_READ_MESSAGES = 2000


def measured_frames(
    settings: Settings, bounds: Iterable[Bound], *, until_us: int, ended: threading.Event
) -> dict[UUID, Quality]:
    """Return what was measured, before a time, in each frame that keeps the bounds; some 500 bytes for each.

    It blocks, and reads the topic from its beginning; nobody's offsets move. Soon after `ended` is set it gives up.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    kept = tuple(bounds)
    found: dict[UUID, Quality] = {}
    with _consumer(settings) as consumer:
        for message in _messages(settings, consumer, ended):
            # Kafka stamps a message when it is appended, so the same time gives the same messages in the next run.
            if message.timestamp()[1] * 1000 >= until_us:
                continue
            try:
                event = decode(message.value(), PreprocessedFrame)
                record = UUID(event.record_id)
            except (RejectedError, ValueError):
                continue  # somebody else's message; the topic's readers see that for themselves
            if is_within(event, kept):
                found.setdefault(record, {name: getattr(event, name) for name in MEASURES})
    return found


def _messages(settings: Settings, consumer: Consumer, ended: threading.Event) -> Iterator[Message]:
    about = consumer.list_topics(PREPROCESSED.name, timeout=_REQUEST_S).topics[PREPROCESSED.name]
    if about.error is not None:
        raise KafkaException(about.error)
    consumer.assign([TopicPartition(PREPROCESSED.name, number, OFFSET_BEGINNING) for number in about.partitions])
    unfinished = set(about.partitions)
    last_s = time.monotonic()
    while unfinished and not ended.is_set():
        messages = consumer.consume(_READ_MESSAGES, 0.5)
        if messages:
            last_s = time.monotonic()
        elif time.monotonic() - last_s > _SILENCE_S_MAX:
            raise kafka_unreachable(settings, KafkaError(KafkaError._TIMED_OUT, PREPROCESSED.name))  # noqa: SLF001
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                unfinished.discard(message.partition())
            else:
                raise KafkaException(error)


@contextmanager
def _consumer(settings: Settings) -> Iterator[Consumer]:
    consumer = Consumer(
        client_config(
            settings,
            group_id="headrace-export",  # librdkafka wants one; nothing is ever committed to it
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            queued_max_messages_kbytes=32 * 1024,
        )
        | {"log_level": 0}
    )
    try:
        yield consumer
    except KafkaException as error:
        raise kafka_unreachable(settings, error.args[0]) from None
    finally:
        consumer.close()
