"""Follows the announcements that sites mirror: their records are in the catalog at once, their bytes follow."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime import metrics
from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import client_config, kafka_failed, session_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import headers_of
from headrace.schemas.topics import site_of_topic
from headrace.store.catalog.catalog import Catalog
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.transfer.rows import AnnouncedRecord, RefusedAnnouncement, announced, row_batch, split
from headrace.streams.worker.retry import Retry

GROUP = "headrace-transfer"
MESSAGES_MAX = 500
POLL_S = 0.2
NEW_TOPICS_MS = 5_000
_ENDING = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._FATAL})  # noqa: SLF001

T = TypeVar("T")


class SiteAnnouncements:
    """Reads the mirrored `ingested.*` topics of some sites, also those that appear later."""

    def __init__(self, settings: Settings, catalog: Catalog, sites: Collection[str], retry: Retry) -> None:
        self._settings = settings
        self._catalog = catalog
        self._retry = retry
        names = "|".join(re.escape(site) for site in sorted(sites))
        self._pattern = rf"^({names})\.ingested\.(cids|frames|clips|ldos)\.v1$"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-transfer")

    async def run(self, stop: asyncio.Event, *, added: Callable[[], None]) -> None:
        """Add records until `stop` is set; `added` is called after each batch.

        Raises:
            HaltError: PostgreSQL did not come back. HeadraceError: Kafka refuses.
        """
        consumer = await self._run(self._opened)
        try:
            while not stop.is_set():
                messages = await self._run(lambda: consumer.consume(MESSAGES_MAX, POLL_S))
                if batch := list(_consumed(messages)):
                    await self._add(batch)
                    added()
                    await self._run(lambda: _commit(consumer, batch))
        except KafkaException as error:
            raise kafka_failed(self._settings, error.args[0]) from None
        finally:
            await self._run(consumer.close)
            self._thread.shutdown(wait=False)

    async def _add(self, messages: list[ConsumedMessage]) -> None:
        records, refused = split(announced(message) for message in messages)
        _report(refused)
        known = await self._retry(lambda: self._catalog.look_up(sorted({item.record.digest for item in records})))
        out = {
            item.record.digest
            for item in records
            for tombstone in known.tombstones
            if tombstone.digest == item.record.digest and tombstone.keeps_out(item.record.site, item.record.source_id)
        }
        kept: list[AnnouncedRecord] = [item for item in records if item.record.digest not in out]
        if kept:
            rows = row_batch(kept)
            await self._retry(lambda: self._catalog.commit(rows))

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _opened(self) -> Consumer:
        config = client_config(
            self._settings,
            is_logged=True,
            group_id=GROUP,
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            topic_metadata_refresh_interval_ms=NEW_TOPICS_MS,
            **session_config(self._settings),
        )
        consumer = Consumer(config)
        consumer.subscribe([self._pattern])
        return consumer


def _consumed(messages: Iterable[Message]) -> Iterable[ConsumedMessage]:
    for message in messages:
        if (error := message.error()) is not None:
            error = with_acl(error, Operation.READ, message.topic())
            if error.fatal() or error.code() in _ENDING:
                raise KafkaException(error)
            get_log().warning(Action.RETRYING, service="kafka", group=GROUP, why=error.str())
            continue
        yield ConsumedMessage(
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            timestamp_us=message.timestamp()[1] * 1000,
            key=message.key(),
            value=message.value(),
            headers=tuple((name, value or b"") for name, value in headers_of(message) or []),
        )


def _commit(consumer: Consumer, messages: Iterable[ConsumedMessage]) -> None:
    ends = {(message.topic, message.partition): message.offset + 1 for message in messages}
    positions = [TopicPartition(*key, offset) for key, offset in ends.items()]
    try:
        consumer.commit(offsets=positions, asynchronous=False)
    except KafkaException as error:
        # Another member has the partitions, or Kafka is away: what is not committed is read again, and adds nothing.
        get_log().warning(Action.RETRYING, service="kafka", group=GROUP, why=error.args[0].str())


def _report(refused: Iterable[RefusedAnnouncement]) -> None:
    for refusal in refused:
        message = refusal.message
        metrics.transfer_refused_total.labels(site_of_topic(message.topic), refusal.code.value).inc()
        get_log().warning(
            Action.REJECTED,
            code=refusal.code.value,
            reason=refusal.reason,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
        )
