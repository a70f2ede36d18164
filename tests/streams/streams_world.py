"""The outside of running workers: what is published, and what arrives in the catalog and in the store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import InputEvent, Kind, kind_of
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs, BlobStat
from tests.waiting import until

ARRIVES_S_MAX = 90.0  # a member that was killed is missed for 30 s before its partitions go to another
GROUPS = {
    Kind.CID: "headrace-small",
    Kind.LDO: "headrace-small",
    Kind.FRAME: "headrace-large",
    Kind.CLIP: "headrace-large",
}


@dataclass(frozen=True)
class Sent:
    """A message that Kafka acknowledged."""

    kind: Kind
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def topic(self) -> str:
        return input_topic(self.kind).name

    @property
    def place(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


class World:
    """One database of a stack that others use too: names that begin with `tag` are of this module alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tag = uuid4().hex[:8]
        self._producer = Producer(
            client_config(settings, acks="all", linger_ms=5, message_max_bytes=16_000_000) | {"log_level": 0}
        )
        self._connection = psycopg.connect(settings.postgres_dsn.get_secret_value(), autocommit=True)
        self.blobs = Blobs.from_settings(settings)

    def close(self) -> None:
        self._connection.close()

    def source(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def send_all(
        self,
        kind: Kind,
        values: Sequence[bytes | None],
        *,
        key: bytes | None = b"key",
        headers: tuple[tuple[str, bytes], ...] = (),
        **options: Any,
    ) -> list[Sent]:
        """Publish values in their order, to one partition; returns once each is acknowledged."""
        delivered: list[tuple[KafkaError | None, Message]] = []
        for value in values:
            self._producer.produce(
                input_topic(kind).name,
                value=value,
                key=key,
                headers=list(headers),
                on_delivery=lambda error, message: delivered.append((error, message)),
                **options,
            )
        assert self._producer.flush(30) == 0
        for error, _ in delivered:
            assert error is None, error
        places = sorted((message.offset() or 0, message.partition() or 0) for _, message in delivered)
        return [
            Sent(kind, partition, offset, key, value, headers)
            for (offset, partition), value in zip(places, values, strict=True)
        ]

    def send(self, event: InputEvent, **options: Any) -> Sent:
        return self.send_all(kind_of(event), [encode(event)], key=event.source_id.encode(), **options)[0]

    def refused_by_kafka(self, kind: Kind, value: bytes) -> KafkaError:
        """Publish what the broker does not take."""
        errors: list[KafkaError | None] = []
        self._producer.produce(
            input_topic(kind).name, value=value, on_delivery=lambda error, _message: errors.append(error)
        )
        assert self._producer.flush(30) == 0
        (error,) = errors
        assert error is not None
        return error

    def rows(self, text: str, *values: Any) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return list(cursor.execute(text, values))  # type: ignore[call-overload]

    def sighting(self, sent: Sent) -> dict[str, Any] | None:
        """The record that a message became, with its sighting and where its bytes are."""
        stored = self.rows(
            "select s.source_id as seen_by, r.*, b.store_key, b.store_offset, b.size_bytes as blob_bytes"
            " from sightings s join records r using (record_id) join blobs b on b.sha256 = r.digest"
            ' where s.topic = %s and s.partition = %s and s."offset" = %s',
            *sent.place,
        )
        return stored[0] if stored else None

    def dead_letters(self, sent: Sent) -> list[dict[str, Any]]:
        return self.rows(
            'select * from dead_letters where topic = %s and partition = %s and "offset" = %s', *sent.place
        )

    def stored(self, sent: Sent) -> dict[str, Any]:
        """Wait until a message is in the catalog as a record."""
        until(lambda: self.sighting(sent) or self.dead_letters(sent), ARRIVES_S_MAX, f"{sent.place} to arrive")
        seen = self.sighting(sent)
        assert seen is not None, self.dead_letters(sent)
        return seen

    def dead(self, sent: Sent) -> dict[str, Any]:
        """Wait until a message is a dead letter."""
        until(lambda: self.sighting(sent) or self.dead_letters(sent), ARRIVES_S_MAX, f"{sent.place} to arrive")
        (letter,) = self.dead_letters(sent)
        assert self.sighting(sent) is None
        return letter

    def committed(self, sent: Sent) -> int:
        """The group's offset in the partition of a message: everything below it is done."""
        consumer = Consumer(client_config(self.settings, group_id=GROUPS[sent.kind], enable_auto_commit=False))
        try:
            (committed,) = consumer.committed([TopicPartition(sent.topic, sent.partition)], timeout=10)
        finally:
            consumer.close()
        return committed.offset

    def read(self, key: str, offset: int | None = None, length: int | None = None) -> bytes:
        return asyncio.run(self.blobs.get(key, offset=offset, length=length))

    def listed(self, prefix: str) -> list[BlobStat]:
        async def look() -> list[BlobStat]:
            return [stat async for stat in self.blobs.list(prefix)]

        return asyncio.run(look())
