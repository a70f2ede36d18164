"""Requests as they come from Kafka. A message is only a pointer: what counts is the request's row."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from headrace.runtime.kafka import client_config, heartbeat_s
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import CaptureRequest
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import CAPTURE_REQUESTS

GROUP = "headrace-capture"
_POLL_S = 0.3


class CaptureRequestConsumer:
    """A member of the capture workers' group. Its methods must not overlap."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; the group is joined by `open`."""
        self._config = client_config(
            settings,
            group_id=GROUP,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=int(settings.kafka_session_s * 1000),
            heartbeat_interval_ms=int(heartbeat_s(settings.kafka_session_s) * 1000),
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-capture")
        self._consumer: Consumer | None = None

    async def open(self) -> None:
        """Join the group."""
        await self._run(self._open)

    async def take(self, *, wanted: bool) -> tuple[Message, CaptureRequest | None] | None:
        """Return the next message and what it says, None where it says nothing; None where nothing came.

        While nothing is `wanted` nothing is fetched, but for what comes while partitions change hands.
        """
        message = await self._run(self._poll, wanted)
        return None if message is None else (message, _request_of(message))

    async def done(self, message: Message) -> None:
        """Note that a message was seen to."""
        await self._run(self._commit, message)

    async def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            await self._run(self._consumer.close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: "object", *args: object) -> "Message | None":
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)  # type: ignore[arg-type]

    def _open(self) -> None:
        self._consumer = Consumer(self._config)
        self._consumer.subscribe([CAPTURE_REQUESTS.name])

    def _poll(self, wanted: bool) -> Message | None:  # noqa: FBT001 - it goes through an executor
        assert self._consumer is not None
        if assigned := self._consumer.assignment():
            (self._consumer.resume if wanted else self._consumer.pause)(assigned)
        message = self._consumer.poll(_POLL_S)
        if message is None or (error := message.error()) is None:
            return message
        get_log().warning(Action.RETRYING, service="kafka", why=error.str())
        return None

    def _commit(self, message: Message) -> None:
        assert self._consumer is not None
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, partition, offset + 1)], asynchronous=False)
        except KafkaException as error:
            # It comes again, and the request's row says that it was seen to.
            get_log().warning(Action.RETRYING, service="kafka", why=error.args[0].str())


def _request_of(message: Message) -> CaptureRequest | None:
    try:
        return decode(message.value(), CaptureRequest)
    except RejectedError as rejected:
        get_log().warning(
            Action.UNDECODABLE,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            why=rejected.reason,
        )
        return None
