"""What the same machine does without us, in the same run: the store's plain PUTs, Kafka's plain reads."""

import asyncio
import time
from itertools import count as numbers
from random import Random

from confluent_kafka import Consumer, TopicPartition

from headrace.bench.bodies import FRAME_BYTES
from headrace.bench.figures import rate
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs

PUTS_AT_ONCE = 16
_READ_AT_ONCE = 1000
_POLL_S = 0.02  # what the last call waits for messages that do not come
_REQUEST_S_MAX = 10


def puts_per_s(settings: Settings, count: int) -> float:
    """Put bodies of 200 KB into the store, 16 at a time; returns how many a second."""
    return asyncio.run(_puts_per_s(settings, count))


async def _puts_per_s(settings: Settings, count: int) -> float:
    blobs = Blobs.from_settings(settings)
    body = Random(1).randbytes(FRAME_BYTES)  # noqa: S311 - incompressible, not secret
    left = numbers()
    prefix = f"bench/{time.time_ns()}"

    async def put() -> None:
        while (number := next(left)) < count:
            await blobs.put(f"{prefix}/{number:08d}", body)

    began = time.monotonic()
    await asyncio.gather(*(put() for _ in range(PUTS_AT_ONCE)))
    return rate(count, time.monotonic() - began)


def reads_per_s(settings: Settings, topic: str, count: int) -> float:
    """Read the last `count` messages of a topic with librdkafka and do nothing with them; returns how many a second."""
    consumer = Consumer(
        client_config(settings, group_id="headrace-bench", enable_auto_commit=False, fetch_queue_backoff_ms=5)
    )
    try:
        partitions = consumer.list_topics(topic, timeout=_REQUEST_S_MAX).topics[topic].partitions
        places = [TopicPartition(topic, number) for number in partitions]
        left = 0
        for place in places:
            low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_S_MAX)
            place.offset = max(low, high - count // len(places))
            left += high - place.offset
        consumer.assign(places)
        began = ended = 0.0
        read = 0
        while read < left:
            some = consumer.consume(_READ_AT_ONCE, _POLL_S)
            if some and not began:  # connecting is not reading
                began, left = time.monotonic(), left - len(some)
            elif some:
                read, ended = read + len(some), time.monotonic()
        return rate(read, ended - began)
    finally:
        consumer.close()
