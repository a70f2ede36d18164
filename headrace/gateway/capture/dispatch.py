"""Telling the capture workers of a request, through Kafka; what was not told is told later, by a worker with time."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.gateway.capture.plan import CapturePlan
from headrace.runtime.kafka import client_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import CaptureRequest
from headrace.schemas.headers import headers_for
from headrace.schemas.topics import CAPTURE_REQUESTS
from headrace.store.requests.requests import IngestRequest, NewRequest

_DELIVERY_S_MAX = 10.0


class Dispatcher:
    """Publishes requests; it connects when the first one comes."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; nothing is sent yet."""
        self._settings = settings
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(1, "capture-requests")
        self._lock = threading.Lock()

    async def tell(self, request: NewRequest | IngestRequest) -> bool:
        """Publish a request and wait until Kafka has it; False where it does not take it. May be repeated."""
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
        # A thread of its own: while Kafka is away it waits, and everybody else needs the shared ones.
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._publish, event)

    def close(self) -> None:
        """Wait for what is on its way."""
        with self._lock:
            if self._producer is not None:
                self._producer.flush(_DELIVERY_S_MAX)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _publish(self, event: CaptureRequest) -> bool:
        faults: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                faults.append(error)

        try:
            with self._lock:
                producer = self._connected()
                producer.produce(
                    CAPTURE_REQUESTS.name,
                    key=event.source_id.encode(),
                    value=encode(event),
                    headers=[*headers_for(event, subject=event.request_id, traceparent=None)],
                    on_delivery=on_delivery,
                )
                left = producer.flush(_DELIVERY_S_MAX + 1)
        except (KafkaException, BufferError) as error:
            get_log().warning(Action.RETRYING, service="kafka", why=type(error).__name__)
            return False
        if left or faults:
            get_log().warning(Action.RETRYING, service="kafka", why=faults[0].str() if faults else "no answer")
            return False
        return True

    def _connected(self) -> Producer:
        if self._producer is None:
            config = client_config(
                self._settings,
                client_id="headrace-capture-requests",
                enable_idempotence=True,
                acks="all",
                partitioner="murmur2",  # as the publishers choose
                linger_ms=0,
                delivery_timeout_ms=int(_DELIVERY_S_MAX * 1000),
            )
            self._producer = Producer(config)
        return self._producer
