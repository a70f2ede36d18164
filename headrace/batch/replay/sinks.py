"""Where a replay delivers: a topic, or a handler in Python. The command line has one more, standard output.

A topic keeps the replay's position in the transactions of its messages, as the offset of a consumer group of its own.
So messages and position are there together or not at all, and a run that is killed repeats nothing. A handler gets what
was under way when its process was killed once more.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import DeliveryErrors, client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Ingested
from headrace.schemas.headers import REPLAY, headers_for
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.store.catalog.replays import Replayed
from headrace.store.errors import BlobErasedError

Handler: TypeAlias = Callable[[Ingested, Body], Awaitable[None] | None]

_REQUEST_S = 10.0
_INIT_S_MAX = 30
_COMMIT_S_MAX = 30
_TRANSACTION_S_MAX = 30


class Sink(Protocol):
    """Takes the events of a replay, in order. `position` is that of the last item that was delivered."""

    position: int

    async def open(self, replay_id: UUID, position: int) -> None:
        """Begin behind a position, or behind the sink's own where it keeps one."""

    async def deliver(self, batch: Sequence[Replayed], position: int) -> None:
        """Deliver a batch and move to a position, which may be behind the batch."""

    async def close(self) -> None:
        """Give up what is open."""


class HandlerSink:
    """Calls a handler for each event, one after the other."""

    def __init__(self, handler: Handler, blobs: Blobs) -> None:
        """`handler` may be a coroutine function."""
        self._handler = handler
        self._blobs = blobs
        self.position = 0

    async def open(self, _replay_id: UUID, position: int) -> None:
        """Begin behind the catalog's position."""
        self.position = position

    async def deliver(self, batch: Sequence[Replayed], position: int) -> None:
        """Call the handler; what it raises ends the replay before that event, which the next run delivers again."""
        for item in batch:
            try:
                answer = self._handler(item.event, Body(item.event, self._blobs))
                if inspect.isawaitable(answer):
                    await answer
            except BlobErasedError:
                pass  # erased since it was read, as for a consumer
            self.position = item.position
        self.position = position

    async def close(self) -> None:
        """Do nothing."""


class TopicSink:
    """Publishes to a topic that exists, keyed by source, with the header `replay`.

    librdkafka's calls have a thread of their own.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-replay")
        self._producer: Producer | None = None
        self._group: Consumer | None = None
        self._metadata: Any = None
        self._replay_id = b""
        self.position = 0

    async def open(self, replay_id: UUID, position: int) -> None:
        """End what a killed run has left, and begin behind the last transaction.

        Raises:
            HeadraceError: Kafka does not answer or refuses, the topic does not exist, or it no longer has the position.
        """
        await self._run(lambda: self._open(replay_id, position))

    async def deliver(self, batch: Sequence[Replayed], position: int) -> None:
        """Publish a batch and the position, all or nothing.

        Raises:
            HeadraceError: Kafka does not answer or refuses; the next run knows whether it was published.
        """
        await self._run(lambda: self._deliver(batch, position))

    async def close(self) -> None:
        """Close the clients; a transaction that is open is aborted."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _open(self, replay_id: UUID, position: int) -> None:
        self._replay_id = str(replay_id).encode()
        name = f"headrace-replay-{replay_id}"
        with self._faults():
            self._group = Consumer(
                client_config(self._settings, group_id=name, isolation_level="read_committed", enable_auto_commit=False)
            )
            if self._topic not in self._group.list_topics(timeout=_REQUEST_S).topics:
                raise HeadraceError(
                    "topics_missing",
                    f"there is no topic {self._topic}, or its ACL {Operation.DESCRIBE} is missing",
                    where=self._settings.kafka_bootstrap,
                    hint=f"headrace kafka topics --create --topic {self._topic} --partitions 4",
                    exit_code=Exit.USAGE,
                )
            self._producer = Producer(
                client_config(
                    self._settings,
                    transactional_id=name,
                    transaction_timeout_ms=_TRANSACTION_S_MAX * 1000,
                    linger_ms=5,
                    # The partitioner of Kafka's own clients, so other tools find a source's partition.
                    partitioner="murmur2_random",
                )
            )
            self._producer.init_transactions(_INIT_S_MAX)
            self._metadata = self._group.consumer_group_metadata()
            kept = self._group.committed([TopicPartition(self._topic, 0)], timeout=_REQUEST_S)[0]
            if kept.error is not None:
                raise KafkaException(kept.error)
        if max(kept.offset, 0) < position:
            raise HeadraceError(
                "replay_forgotten",
                f"Kafka no longer has how far the replay is in {self._topic}: an idle group's offsets expire",
                where=self._settings.kafka_bootstrap,
                hint="begin another replay under another --name; the topic has what was delivered",
            )
        self.position = max(kept.offset, 0)

    def _deliver(self, batch: Sequence[Replayed], position: int) -> None:
        assert self._producer is not None
        producer, errors = self._producer, DeliveryErrors()
        try:
            with self._faults():
                producer.begin_transaction()
                for item in batch:
                    event = item.event
                    headers = headers_for(event, subject=event.digest, traceparent=item.traceparent)
                    producer.produce(
                        self._topic,
                        encode(event),
                        event.source_id.encode(),
                        on_delivery=errors.note,
                        headers=[*headers, (REPLAY, self._replay_id)],
                    )
                offset = TopicPartition(self._topic, 0, position)
                producer.send_offsets_to_transaction([offset], self._metadata, _COMMIT_S_MAX)
                reached(CrashPoint.REPLAY_BEFORE_COMMIT)
                producer.commit_transaction(_COMMIT_S_MAX)
        except HeadraceError:
            # librdkafka's error of the transaction does not say what was wrong with its messages.
            if errors.first is None:
                raise
            raise self._error(errors.first) from None
        reached(CrashPoint.REPLAY_AFTER_COMMIT)
        self.position = position

    def _close(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1)
        if self._group is not None:
            self._group.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise self._error(with_acl(error.args[0], Operation.WRITE, self._topic)) from None
        except BufferError:
            raise HeadraceError("kafka_failed", "librdkafka's queue was full", hint="run it again") from None

    def _error(self, error: Any) -> HeadraceError:
        failed = kafka_failed(self._settings, error)
        if failed.exit_code == Exit.UNREACHABLE:
            failed.hint = "run the command again; it resumes, and nothing is delivered twice"
        return failed
