"""Pictures and deliveries for the tests of jobs."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Frame, InputEvent, kind_of
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import StagedBodies
from headrace.store.catalog.catalog import Catalog
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.worker.group_commit import commit_or_store_again
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry, RetryPolicy

CAPTURED_AT_US = 1_790_000_000_000_000


def png(text: str) -> bytes:
    parts = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0)),
        _chunk(b"tEXt", b"text\0" + text.encode()),
        _chunk(b"IDAT", zlib.compress(bytes(15))),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + _chunk(b"IEND", b"")


def frame(text: str, **changes: Any) -> Frame:
    body = png(text)
    given: dict[str, Any] = {
        "source_id": "camera-1",
        "site": "plant",
        "captured_at_us": CAPTURED_AT_US,
        "sequence": 1,
        "sha256": sha256_hex(body),
        "media_type": "image/png",
        "width": 4,
        "height": 3,
        "size_bytes": len(body),
        "body": body,
    }
    return Frame(**(given | changes))


def cid(code: str) -> Cid:
    return Cid(source_id="scanner-1", site="plant", captured_at_us=CAPTURED_AT_US, sequence=1, code=code)


@dataclass
class Line:
    """Events through Kafka and the worker's own path, without its process."""

    settings: Settings
    blobs: Blobs
    catalog: Catalog

    def ingest(self) -> Ingest:
        ports = IngestPorts(self.blobs, StagedBodies(self.blobs), self.catalog)
        return Ingest(ports, retry=Retry(RetryPolicy(0.02, 0.2, 30.0)))

    async def take(self, *events: InputEvent) -> None:
        kind = kind_of(events[0])
        ingest = self.ingest()
        decoded = await ingest.decode(kind, self.published(*events))
        await commit_or_store_again(ingest, await ingest.store_bodies(decoded))

    def published(self, *events: InputEvent) -> list[ConsumedMessage]:
        result: dict[int, ConsumedMessage] = {}
        producer = Producer(client_config(self.settings, acks="all", message_max_bytes=16_000_000))
        for number, event in enumerate(events):
            value, key = encode(event), event.source_id.encode()

            def note(error: object, message: Any, number: int = number) -> None:
                assert error is None
                result[number] = ConsumedMessage(
                    message.topic(),
                    message.partition(),
                    message.offset(),
                    CAPTURED_AT_US,
                    message.key(),
                    message.value(),
                    (),
                )

            producer.produce(input_topic(kind_of(event)).name, value, key, on_delivery=note)
        assert producer.flush(30) == 0
        return [result[number] for number in range(len(events))]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
