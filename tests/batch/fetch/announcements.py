"""What a `read_committed` consumer hears on topics that other tests speak on as well."""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested


class Ear:
    """Listens from now on."""

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        self._consumer = Consumer(
            client_config(
                settings,
                group_id="test",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
            )
        )
        known = self._consumer.list_topics(timeout=30).topics
        self._places = [TopicPartition(topic, partition) for topic in topics for partition in known[topic].partitions]
        for place in self._places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=30)[1]

    def heard(self) -> list[tuple[str, Ingested]]:
        """Return everything from where it began to the ends of all partitions, and their topics; then it is over."""
        self._consumer.assign(self._places)
        found: list[Any] = []
        ended = 0
        while ended < len(self._places):
            for message in self._consumer.consume(500, 1.0):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended += 1
        self._consumer.close()
        return [(message.topic(), decode(message.value(), Ingested)) for message in found]
