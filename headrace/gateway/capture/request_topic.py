"""The topic of capture requests: the gateway publishes to it, the capture workers consume it as one group.

A message is only a pointer: the request's row in the catalog holds its state. A request that could not be published is
published again later by a worker with free capacity.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from headrace.gateway.capture.capture_request import CapturePlan
from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import DeliveryErrors, client_config, session_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode, encode
from headrace.schemas.events import CaptureRequest
from headrace.schemas.headers import headers_for
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import CAPTURE_REQUESTS
from headrace.store.requests.ingest_requests import IngestRequest, NewRequest

T = TypeVar("T")

GROUP = "headrace-capture"
_DELIVERY_S_MAX = 10.0
_POLL_S = 0.3


class CaptureRequestPublisher:
    """Publishes capture requests; connects on the first one."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; nothing is sent yet."""
        self._settings = settings
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(1, "capture-requests")
        self._lock = threading.Lock()

    async def publish(self, request: NewRequest | IngestRequest) -> bool:
        """Publish a request and wait for the acknowledgement; False if there is none. May be repeated."""
        plan = CapturePlan.from_json(request.asked)
        event = CaptureRequest(
            source_id=request.source_id,
            site=request.site,
            request_id=str(request.request_id),
            requested_at_us=time.time_ns() // 1000,
            url=plan.url,
            mode=plan.mode.value,
            fps=plan.fps,
            duration_s=plan.duration_s,
            frame_count=plan.frame_count,
        )
        # A thread of its own: it blocks while Kafka is unavailable, and the shared threads serve other requests.
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._publish, event)

    def close(self) -> None:
        """Flush pending messages and stop the thread."""
        with self._lock:
            if self._producer is not None:
                self._producer.flush(_DELIVERY_S_MAX)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _publish(self, event: CaptureRequest) -> bool:
        errors = DeliveryErrors()
        try:
            with self._lock:
                producer = self._connect()
                producer.produce(
                    CAPTURE_REQUESTS.name,
                    key=event.source_id.encode(),
                    value=encode(event),
                    headers=[*headers_for(event, subject=event.request_id, traceparent=None)],
                    on_delivery=errors.note,
                )
                pending = producer.flush(_DELIVERY_S_MAX + 1)
        except (KafkaException, BufferError) as error:
            get_log().warning(Action.RETRYING, service="kafka", why=type(error).__name__)
            return False
        if pending or errors.first is not None:
            get_log().warning(
                Action.RETRYING, service="kafka", why=errors.first.str() if errors.first is not None else "no answer"
            )
            return False
        return True

    def _connect(self) -> Producer:
        if self._producer is None:
            config = client_config(
                self._settings,
                client_id="headrace-capture-requests",
                enable_idempotence=True,
                acks="all",
                partitioner="murmur2",  # the same as the publishers'
                linger_ms=0,
                delivery_timeout_ms=int(_DELIVERY_S_MAX * 1000),
            )
            self._producer = Producer(config)
        return self._producer


class CaptureRequestConsumer:
    """A member of the capture workers' consumer group. Calls must not overlap."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; `open` joins the group."""
        self._config = client_config(
            settings,
            is_logged=True,
            group_id=GROUP,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy="cooperative-sticky",
            **session_config(settings),
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-capture")
        self._consumer: Consumer | None = None

    async def open(self) -> None:
        """Join the group."""
        await self._run(self._subscribe)

    async def poll(self, *, paused: bool) -> tuple[Message, CaptureRequest | None] | None:
        """Return the next message with its request, None if it cannot be decoded; None if there is no message.

        While `paused` nothing is fetched, except a message that arrives during a rebalance.
        """
        message = await self._run(self._poll, paused)
        return None if message is None else (message, _decode(message))

    async def commit(self, message: Message) -> None:
        """Commit the offset after a message."""
        await self._run(self._commit, message)

    async def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            await self._run(self._consumer.close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def _subscribe(self) -> None:
        self._consumer = Consumer(self._config)
        self._consumer.subscribe([CAPTURE_REQUESTS.name])

    def _poll(self, paused: bool) -> Message | None:  # noqa: FBT001 - an executor passes positional arguments only
        assert self._consumer is not None
        if assigned := self._consumer.assignment():
            (self._consumer.pause if paused else self._consumer.resume)(assigned)
        message = self._consumer.poll(_POLL_S)
        if message is None or (error := message.error()) is None:
            return message
        error = with_acl(error, Operation.READ, message.topic())
        get_log().warning(Action.RETRYING, service="kafka", why=error.str())
        return None

    def _commit(self, message: Message) -> None:
        assert self._consumer is not None
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, partition, offset + 1)], asynchronous=False)
        except KafkaException as error:
            # The message is redelivered, and the request's row shows that it was handled.
            get_log().warning(Action.RETRYING, service="kafka", why=error.args[0].str())


def _decode(message: Message) -> CaptureRequest | None:
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
