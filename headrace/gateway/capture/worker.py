"""The composition root of the capture worker."""

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
from headrace.gateway.capture.collector import Outlets
from headrace.gateway.capture.credential_encryption import CredentialCipher
from headrace.gateway.capture.dispatch import Dispatcher
from headrace.gateway.capture.job import SILENT_S_MAX, CaptureJob, JobStore, LeaseLostError
from headrace.gateway.capture.recorder import Deps, capture
from headrace.gateway.capture.request_consumer import CaptureRequestConsumer
from headrace.gateway.capture.states import BEFORE, RUNNING, CaptureProgress, CaptureState
from headrace.gateway.uploads.ingest_wait import IngestWait
from headrace.producers.publisher import Publisher
from headrace.runtime.addresses import networks_of
from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import require_topics, wait_for_kafka
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import capture_streams
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.events import CaptureRequest, Kind
from headrace.schemas.topics import CAPTURE_REQUESTS, input_topic
from headrace.store.postgres import close_pool, open_pool
from headrace.store.requests.captures import Captures
from headrace.store.requests.ingest_status import IngestStatuses
from headrace.store.requests.requests import IngestRequests
from headrace.streams.worker.liveness import ask_kafka, liveness

UPKEEP_EVERY_S = 5.0
UNTOLD_S_MAX = 30.0  # after which a request that nobody took is told of again
_RETRY_S = 1.0
_STOP_S_MAX = 12.0  # of the 18 s that a process has to stop
_CLOSE_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class CaptureDeps:
    """What the worker works with."""

    intake: CaptureRequestConsumer
    book: JobStore
    means: Deps
    dispatcher: Dispatcher


class CaptureWorker:
    """Takes requests up as long as it has room, at most `streams_max` at a time."""

    def __init__(self, tools: CaptureDeps, streams_max: int) -> None:
        """Begin with nothing to do."""
        self._tools = tools
        self._streams_max = streams_max
        self._name = secrets.token_hex(8)
        self._waiting: deque[tuple[Message, CaptureRequest | None]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._looked_s = 0.0
        self.steps = 0
        """Grows with every look for work; readable from any thread."""

    @property
    def has_room(self) -> bool:
        """Whether one more camera may be captured."""
        return len(self._running) < self._streams_max

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, and then hand over what is not done."""
        while not stop.is_set():
            self.steps += 1
            taken = await self._tools.intake.take(wanted=self.has_room and not self._waiting)
            if taken is not None:
                self._waiting.append(taken)
            try:
                await self._work_off()
                await self._upkeep()
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                await asyncio.sleep(_RETRY_S)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S_MAX)

    async def _work_off(self) -> None:
        while self._waiting and self.has_room:
            message, asked = self._waiting[0]
            if asked is not None:
                await self._begin(asked)
            self._waiting.popleft()
            await self._tools.intake.done(message)

    async def _begin(self, asked: CaptureRequest) -> None:
        """Take a request up, unless that was done before: then its row has moved on."""
        with suppress(ValueError):
            request = await self._tools.book.requests.get(UUID(asked.request_id))
            if request is None or request.state != CaptureState.REQUESTED:
                return
            job = CaptureJob(
                self._tools.book, request, replace(CaptureProgress.from_json(request.evidence), worker=self._name)
            )
            if await job.begin():
                task = asyncio.create_task(self._capture(job))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _capture(self, job: CaptureJob) -> None:
        capturing = asyncio.create_task(capture(job, self._tools.means))
        keeping = asyncio.create_task(job.keep())
        capture_streams.inc()
        try:
            await asyncio.wait({capturing, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if capturing.done() and not await _seen_to(job, capturing):
                await self._give_back(job)
        except asyncio.CancelledError:
            await _ended(capturing)
            await self._give_back(job)
        finally:
            capture_streams.dec()
            await _ended(capturing, keeping)

    async def _give_back(self, job: CaptureJob) -> None:
        if await job.give_back():
            await self._tools.dispatcher.tell(job.request)

    async def _upkeep(self) -> None:
        """Take up again what others left behind."""
        now_s = time.monotonic()
        if not self.has_room or now_s - self._looked_s < UPKEEP_EVERY_S:
            return
        self._looked_s = now_s
        book = self._tools.book
        for request_id, evidence in await book.captures.take_from_silent(RUNNING, SILENT_S_MAX):
            moved = await book.requests.advance(
                request_id, before=BEFORE[CaptureState.REQUESTED], state=CaptureState.REQUESTED, evidence=evidence
            )
            request = await book.requests.get(request_id)
            if moved and request is not None:
                await self._tools.dispatcher.tell(request)
        for request in await book.captures.untold(CaptureState.REQUESTED, UNTOLD_S_MAX):
            await self._tools.dispatcher.tell(request)


async def work(settings: Settings, stop: asyncio.Event) -> int:
    """Capture what is asked for until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: a service is away at start-up or refuses, or a topic is missing.
    """
    admin = await wait_for_kafka(settings, stop=stop)
    topics = [CAPTURE_REQUESTS.name, input_topic(Kind.FRAME).name, input_topic(Kind.CLIP).name]
    await asyncio.to_thread(require_topics, settings, admin, topics)
    async with _tools(settings, stop) as tools:
        worker = CaptureWorker(tools, settings.capture_streams_max)
        async with liveness(
            settings,
            waiting=lambda: True,
            progress=lambda: worker.steps,
            doing=lambda: "looking for work",
            probes={"kafka": lambda: ask_kafka(settings, admin), "postgres": tools.book.requests.newest_event},
        ):
            get_log().info(Action.STARTED)
            await worker.run(stop)
    return 0


@asynccontextmanager
async def _tools(settings: Settings, stop: asyncio.Event) -> AsyncIterator[CaptureDeps]:
    dsn, secret = settings.postgres_dsn.get_secret_value(), settings.gateway_token_secret.get_secret_value()
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
        landing = IngestWait(IngestStatuses(pool, dsn))
        await stack.enter_async_context(background_task(landing.run()))
        dispatcher = Dispatcher(settings)
        stack.push_async_callback(asyncio.to_thread, dispatcher.close)
        intake = CaptureRequestConsumer(settings)
        stack.push_async_callback(intake.close)
        await intake.open()
        requests = IngestRequests(pool, dsn)
        yield CaptureDeps(
            intake=intake,
            book=JobStore(requests, Captures(pool, dsn)),
            means=Deps(
                outlets=Outlets(publisher, requests, landing),
                sealer=CredentialCipher(secret) if secret else None,
                networks=networks_of(settings.gateway_camera_networks),
            ),
            dispatcher=dispatcher,
        )


async def _seen_to(job: CaptureJob, capturing: "asyncio.Task[None]") -> bool:
    """Take note of how a capture ended; False where a service was away, so that it is to be tried again."""
    error = capturing.exception()
    if error is None or isinstance(error, LeaseLostError):
        return True
    if isinstance(error, HeadraceError):
        get_log().warning(Action.RETRYING, service=error.code, why=error.what)
        await asyncio.sleep(_RETRY_S)
        return False
    get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
    with suppress(LeaseLostError):
        await job.fail(CameraFault.BROKEN)
    return True


async def _ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
