"""The capture worker: acquires capture requests and captures them concurrently. Its composition root is `work`."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from uuid import UUID

from confluent_kafka import Message

from headrace.gateway.capture.camera_faults import CameraFault
from headrace.gateway.capture.camera_url import CredentialCipher
from headrace.gateway.capture.capture_request import (
    ACTIVE_STATES,
    PREDECESSORS,
    CapturePlan,
    CaptureProgress,
    CaptureState,
)
from headrace.gateway.capture.job import LEASE_S, CaptureJob, JobStore, LeaseLostError
from headrace.gateway.capture.media_publisher import PublishingDeps
from headrace.gateway.capture.recorder import RecorderDeps, capture
from headrace.gateway.capture.request_topic import CaptureRequestConsumer, CaptureRequestPublisher
from headrace.gateway.capture.rtsp_stream import require_confinement
from headrace.gateway.capture.standing import add_successor, successor_id, successor_of
from headrace.gateway.uploads.results import IngestWait
from headrace.producers.publisher import Publisher
from headrace.runtime.acl import Operation
from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.liveness import ask_kafka, liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import capture_streams
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.events import CaptureRequest, Kind
from headrace.schemas.topics import CAPTURE_REQUESTS, input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.sessions import listen
from headrace.store.installation import require_installation
from headrace.store.postgres import close_pool, open_pool
from headrace.store.requests.ingest_requests import Captures, IngestRequests
from headrace.store.requests.ingest_status import IngestStatuses

RECOVERY_EVERY_S = 5.0
UNACQUIRED_S_MAX = 30.0  # after which a request that no worker acquired is published again
_RETRY_S = 1.0
_STOP_S_MAX = 12.0  # of the 18 s that a process has to stop
_CLOSE_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class CaptureDeps:
    """What the worker needs."""

    consumer: CaptureRequestConsumer
    store: JobStore
    recorder: RecorderDeps
    request_publisher: CaptureRequestPublisher


class CaptureWorker:
    """Captures up to `streams_max` requests concurrently."""

    def __init__(self, deps: CaptureDeps, streams_max: int) -> None:
        """Start with no jobs."""
        self._deps = deps
        self._streams_max = streams_max
        self._name = secrets.token_hex(8)
        self._pending: deque[tuple[Message, CaptureRequest | None]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._recovered_s = 0.0
        self.iterations = 0
        """Grows with every iteration of the loop; any thread may read it."""

    @property
    def has_capacity(self) -> bool:
        """Whether one more camera may be captured."""
        return len(self._running) < self._streams_max

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then release the running jobs."""
        while not stop.is_set():
            self.iterations += 1
            received = await self._deps.consumer.poll(paused=not self.has_capacity or bool(self._pending))
            if received is not None:
                self._pending.append(received)
            try:
                await self._start_pending()
                await self._recover_requests()
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                await asyncio.sleep(_RETRY_S)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S_MAX)

    async def _start_pending(self) -> None:
        while self._pending and self.has_capacity:
            message, request = self._pending[0]
            if request is not None:
                await self._start(request)
            self._pending.popleft()
            await self._deps.consumer.commit(message)

    async def _start(self, message: CaptureRequest) -> None:
        """Start capturing a request, unless its row is past the state `requested`: then the message is a repetition."""
        with suppress(ValueError):
            request = await self._deps.store.requests.get(UUID(message.request_id))
            if request is None or request.state != CaptureState.REQUESTED:
                return
            progress = replace(CaptureProgress.from_json(request.evidence), worker=self._name)
            job = CaptureJob(self._deps.store, request, progress)
            if await job.acquire():
                task = asyncio.create_task(self._run_job(job))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _run_job(self, job: CaptureJob) -> None:
        capturing = asyncio.create_task(capture(job, self._deps.recorder))
        keeping_lease = asyncio.create_task(job.keep_lease())
        capture_streams.inc()
        try:
            await asyncio.wait({capturing, keeping_lease}, return_when=asyncio.FIRST_COMPLETED)
            if capturing.done() and not await _is_handled(job, capturing, self._deps.recorder):
                await self._release(job)
            elif job.state is CaptureState.INGESTED:
                await self._go_on(job)
        except asyncio.CancelledError:
            await _cancel(capturing)
            await self._release(job)
        finally:
            capture_streams.dec()
            await _cancel(capturing, keeping_lease)

    async def _go_on(self, job: CaptureJob) -> None:
        """Dispatch the successor of a standing capture at once; after a failure, the recovery dispatches it later."""
        if CapturePlan.from_json(job.request.asked).standing:
            with suppress(HeadraceError):
                successor = await self._deps.store.requests.get(successor_id(job.request.request_id))
                if successor is not None:
                    await self._deps.request_publisher.publish(successor)

    async def _release(self, job: CaptureJob) -> None:
        if await job.release():
            await self._deps.request_publisher.publish(job.request)

    async def _recover_requests(self) -> None:
        """Dispatch requests again whose lease expired or that no worker acquired."""
        now_s = time.monotonic()
        if not self.has_capacity or now_s - self._recovered_s < RECOVERY_EVERY_S:
            return
        self._recovered_s = now_s
        store = self._deps.store
        for request_id, progress in await store.captures.release_expired_leases(ACTIVE_STATES, LEASE_S):
            changed = await store.requests.advance(
                request_id,
                before=PREDECESSORS[CaptureState.REQUESTED],
                state=CaptureState.REQUESTED,
                evidence=progress,
            )
            request = await store.requests.get(request_id)
            if changed and request is not None:
                await self._deps.request_publisher.publish(request)
        for request in await store.captures.unacquired(CaptureState.REQUESTED, UNACQUIRED_S_MAX):
            await self._deps.request_publisher.publish(request)


async def work(settings: Settings, stop: asyncio.Event) -> int:
    """Capture requests until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is unavailable at startup or refuses the connection, a topic is missing, or decoders
            cannot be confined.
    """
    if settings.capture_confinement == "on":
        await require_confinement()
    admin = await wait_for_kafka(settings, stop=stop)
    needed = {input_topic(kind).name: Operation.WRITE for kind in (Kind.FRAME, Kind.CLIP)}
    await asyncio.to_thread(require_topics, settings, admin, needed | {CAPTURE_REQUESTS.name: Operation.READ})
    async with _open_deps(settings, stop) as deps:
        await require_installation(settings, Blobs.from_settings(settings))
        worker = CaptureWorker(deps, settings.capture_streams_max)
        async with liveness(
            settings,
            waiting=lambda: True,
            progress=lambda: worker.iterations,
            doing=lambda: "polling for requests",
            probes={"kafka": lambda: ask_kafka(settings, admin), "postgres": deps.store.requests.newest_event},
        ):
            get_log().info(Action.STARTED)
            await worker.run(stop)
    return 0


@asynccontextmanager
async def _open_deps(settings: Settings, stop: asyncio.Event) -> AsyncIterator[CaptureDeps]:
    dsn, secret = settings.postgres_dsn.get_secret_value(), settings.gateway_seal_secret.get_secret_value()
    async with AsyncExitStack() as stack:
        pool = await wait_for(
            "postgres",
            lambda: open_pool(
                dsn,
                connections_max=settings.postgres_connections_max,
                statement_s_max=settings.postgres_statement_s_max,
                application="headrace capture",
            ),
            wait_s_max=settings.start_wait_s_max,
            stop=stop,
        )
        stack.push_async_callback(close_pool, pool)
        publisher = await asyncio.to_thread(Publisher.from_settings, settings)
        stack.push_async_callback(asyncio.to_thread, publisher.close, _CLOSE_S_MAX)
        listener = await stack.enter_async_context(listen(dsn))
        ingest_wait = IngestWait(IngestStatuses(pool, dsn), listener.notified)
        await stack.enter_async_context(background_task(ingest_wait.run()))
        request_publisher = CaptureRequestPublisher(settings)
        stack.push_async_callback(asyncio.to_thread, request_publisher.close)
        consumer = CaptureRequestConsumer(settings)
        stack.push_async_callback(consumer.close)
        await consumer.open()
        requests = IngestRequests(pool, dsn)
        yield CaptureDeps(
            consumer=consumer,
            store=JobStore(requests, Captures(pool, dsn)),
            recorder=RecorderDeps(
                publishing=PublishingDeps(publisher, requests, ingest_wait),
                cipher=CredentialCipher(secret) if secret else None,
                camera_networks=settings.gateway_camera_networks,
                confined=settings.capture_confinement == "on",
            ),
            request_publisher=request_publisher,
        )


async def _is_handled(job: CaptureJob, capturing: "asyncio.Task[None]", deps: RecorderDeps) -> bool:
    """Return whether a capture is over; False if a service was unavailable and it must be repeated."""
    error = capturing.exception()
    if error is None or isinstance(error, LeaseLostError):
        return True
    if isinstance(error, HeadraceError):
        get_log().warning(Action.RETRYING, service=error.code, why=error.what)
        await asyncio.sleep(_RETRY_S)
        return False
    get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
    with suppress(LeaseLostError):
        await add_successor(deps.publishing.requests, successor_of(job.request, deps.cipher))
        await job.fail(CameraFault.BROKEN)
    return True


async def _cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
