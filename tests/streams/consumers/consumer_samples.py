"""Frames that were ingested: bytes in the store, announcements on the topic, told apart by their site."""

import asyncio
import os
from collections.abc import Sequence
from uuid import uuid4

import cv2
import numpy as np
from confluent_kafka import Consumer, Producer

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode, encode
from headrace.schemas.digest import blob_key, event_id, record_id, sha256_hex
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.headers import headers_for, new_traceparent
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.consumers.app import CONSUMERS
from tests.waiting import until_async

TOPIC = "ingested.frames.v1"


def moving_block(count: int, width: int = 320, height: int = 180) -> list[bytes]:
    """Frames in which a block moves to the right, each different from any other test's."""
    back = cv2.resize(np.random.default_rng().integers(40, 120, (6, 8, 3), dtype=np.uint8), (width, height))
    frames = []
    for step in range(count):
        image = back.copy()
        left = (step * 40) % (width - 40)
        image[60:100, left : left + 40] = 255
        frames.append(cv2.imencode(".png", image)[1].tobytes())
    return frames


async def ingest(
    settings: Settings, blobs: Blobs, bodies: Sequence[bytes], *, site: str, sources: int = 3, first: int = 0
) -> list[Ingested]:
    """Store the bodies and announce them, one after the other for each source."""
    producer = Producer(client_config(settings, enable_idempotence=True, partitioner="murmur2_random"))
    events = []
    for sequence, body in enumerate(bodies, first):
        digest = sha256_hex(body)
        record = record_id(Kind.FRAME, sha256_hex(f"{site}{sequence}".encode()))
        await blobs.put(blob_key(digest), body)
        event = Ingested(
            source_id=f"{site}-camera-{sequence % sources}",
            site=site,
            captured_at_us=1_790_000_000_000_000 + sequence,
            sequence=sequence,
            event_id=str(event_id(record)),
            record_id=str(record),
            kind="frame",
            digest=digest,
            ingested_at_us=1_790_000_000_000_000,
            media_type="image/png",
            size_bytes=len(body),
            store_key=blob_key(digest),
            width=320,
            height=180,
        )
        headers = list(headers_for(event, subject=digest, traceparent=new_traceparent(os.urandom(24))))
        producer.produce(TOPIC, encode(event), event.source_id.encode(), headers=headers)
        events.append(event)
    assert producer.flush(30) == 0
    return events


def new_name(prefix: str) -> str:
    return f"{prefix}-{uuid4().hex[:8]}"


class ResultReader:
    """The results of one site that a `read_committed` reader finds on a topic."""

    def __init__(self, settings: Settings, topic: str, event: type, site: str) -> None:
        self._event, self._site = event, site
        self._consumer = Consumer(
            client_config(
                settings, group_id=new_name("test"), isolation_level="read_committed", auto_offset_reset="earliest"
            )
        )
        self._consumer.subscribe([topic])
        self.messages: list = []
        self.results: list = []

    def more(self) -> int:
        """Read what has come and return how many results there are."""
        for message in self._consumer.consume(500, 0.2):
            if message.error() is None and (result := decode(message.value(), self._event)).site == self._site:
                self.messages.append(message)
                self.results.append(result)
        return len(self.results)

    def close(self) -> None:
        self._consumer.close()


async def results_of(name: str, settings: Settings, results: ResultReader, count: int) -> None:
    """Run a consumer in this process until so many results are there."""
    stop = asyncio.Event()
    running = asyncio.create_task(CONSUMERS[name](settings, stop))
    try:
        await until_async(lambda: _more(results, count), 60, f"{count} results")
    finally:
        stop.set()
        assert await asyncio.wait_for(running, 20) == 0


async def _more(results: ResultReader, count: int) -> bool:
    return await asyncio.to_thread(results.more) >= count
