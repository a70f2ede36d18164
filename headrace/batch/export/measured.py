"""What preprocessing measured in frames, as its topic holds it: the catalog has none of it."""

import threading
from collections.abc import Iterable, Iterator
from typing import TypeAlias
from uuid import UUID

from confluent_kafka import Consumer, Message

from headrace.batch.export.request import MEASURES, Bound, is_within
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import PreprocessedFrame
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PREPROCESSED

Quality: TypeAlias = dict[str, float | int]


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
    with reading_consumer(settings, "headrace-export") as consumer:
        for message in _messages(consumer, ended):
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


def _messages(consumer: Consumer, ended: threading.Event) -> Iterator[Message]:
    reader = TopicReader(consumer, offset_bounds(consumer, partitions_of(consumer, PREPROCESSED.name)))
    while reader.unfinished and not ended.is_set():
        yield from reader.read()
