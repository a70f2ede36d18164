"""One capture from its first connection to its last frame: connecting, recording, and connecting again."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError, delay_s, is_over
from headrace.gateway.capture.camera_url import CameraUrl, parse
from headrace.gateway.capture.collector import Collector, Outlets, Recording
from headrace.gateway.capture.credential_encryption import CredentialCipher, DecryptionError
from headrace.gateway.capture.job import CaptureJob
from headrace.gateway.capture.plan import CapturePlan, Mode
from headrace.gateway.capture.rtsp_proxy import CameraAddress
from headrace.gateway.capture.rtsp_stream import CapturedFrame, RtspStream, StreamInfo, StreamRequest
from headrace.gateway.capture.states import CaptureState
from headrace.producers.source import Source
from headrace.runtime.addresses import Network
from headrace.runtime.metrics import capture_frames_total, capture_reconnects_total
from headrace.runtime.resolve import AddressNotAllowedError, UnresolvedHostError, resolve

STARTING_S_MAX = 300.0  # beyond the recording itself, for all connections together
_LEAST_S = 0.1


@dataclass(frozen=True, slots=True)
class Deps:
    """What a capture is made with."""

    outlets: Outlets
    sealer: CredentialCipher | None
    networks: Sequence[Network]


@dataclass(slots=True)
class _Clock:
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    last_s: float = 0.0

    def tick(self) -> None:
        self.last_s = time.monotonic()
        self.first_s = self.last_s if self.first_s is None else self.first_s

    def left_s(self, duration_s: float) -> float:
        return duration_s if self.first_s is None else duration_s - (time.monotonic() - self.first_s)

    @property
    def obtained_s(self) -> float:
        return 0.0 if self.first_s is None else round(self.last_s - self.first_s, 3)


class Recorder:
    """Captures for one job."""

    def __init__(self, job: CaptureJob, means: Deps, collector: Collector) -> None:
        """Prepare; nothing is connected yet."""
        self._job = job
        self._means = means
        self._collector = collector
        self._plan = CapturePlan.from_json(job.request.asked)
        self._clock = _Clock()
        self._shots = Recording()
        self._got = 0

    async def record(self) -> None:
        """Capture until there is enough, or the time is over.

        Raises:
            StreamLost: there is no stream, or too little of it. GivenAway: the request is another worker's by now.
        """
        in_vain = 0
        while not self._has_enough():
            got = self._got
            try:
                await self._connect()
                break
            except StreamLostError as lost:
                in_vain = 0 if self._got > got else in_vain + 1
                self._note(lost.fault)
                reconnects = self._job.evidence.reconnects
                if is_over(lost.fault, in_vain=in_vain, reconnects=reconnects) or self._is_late():
                    raise
                await self._again(reconnects + 1, in_vain)
        await self._finish()

    async def _again(self, reconnects: int, in_vain: int) -> None:
        self._job.note(reconnects=reconnects)
        capture_reconnects_total.inc()
        if self._job.state is CaptureState.RECORDING:
            await self._job.move(CaptureState.CONNECTING)
        await asyncio.sleep(delay_s(in_vain))

    async def _finish(self) -> None:
        if self._plan.mode is Mode.CLIP and len(self._shots):
            await self._collector.add_clip(self._shots)
        await self._collector.settle()
        self._note(None)
        if self._collector.count < max(1, self._plan.frame_count):
            raise StreamLostError(CameraFault.TOO_FEW_FRAMES)

    def _note(self, fault: CameraFault | None) -> None:
        known: dict[str, object] = {} if fault is None else {"last_error": fault.value}
        self._job.note(frames_published=self._collector.count, duration_obtained_s=self._clock.obtained_s, **known)

    def _has_enough(self) -> bool:
        left = self._frames_left()
        return left == 0 or self._shots.is_full or self._clock.left_s(self._plan.duration_s) < _LEAST_S

    def _frames_left(self) -> int | None:
        """How many frames are still to come; None where only the time counts."""
        return max(0, self._plan.frame_count - self._collector.published) if self._plan.frame_count else None

    def _is_late(self) -> bool:
        return time.monotonic() - self._clock.began_s > STARTING_S_MAX + self._plan.duration_s

    async def _connect(self) -> None:
        url = self._url()
        wanted = StreamRequest(
            target=url.target,
            login=None if url.login is None else (url.login.user, url.login.password),
            fps=self._plan.fps,
            duration_s=self._clock.left_s(self._plan.duration_s),
            frame_count=self._frames_left() or 0,
        )
        async with RtspStream(await self._place(url), wanted) as stream:
            async for found in stream.found():
                await self._take(found)
                if self._has_enough():
                    return

    async def _take(self, found: StreamInfo | CapturedFrame) -> None:
        if isinstance(found, StreamInfo):
            self._job.note(codec=found.codec, width=found.width, height=found.height)
            await self._job.move(CaptureState.RECORDING)
            return
        self._clock.tick()
        self._got += 1
        capture_frames_total.inc()
        self._job.note(frames_got=self._job.evidence.frames_got + 1)
        if self._plan.mode is Mode.CLIP:
            self._shots.add(found)
        else:
            await self._collector.add(found)
        self._note(None)

    def _url(self) -> CameraUrl:
        shown, request = parse(self._plan.url), self._job.request
        if request.sealed is None:
            return shown
        if self._means.sealer is None:
            raise StreamLostError(CameraFault.SEAL_BROKEN)
        try:
            return self._means.sealer.opened(request.request_id, request.sealed, shown)
        except DecryptionError:
            raise StreamLostError(CameraFault.SEAL_BROKEN) from None

    async def _place(self, url: CameraUrl) -> CameraAddress:
        """Look the name up, and check what it says now: the gateway's look was a while ago."""
        try:
            addresses = await resolve(url.host, url.port, self._means.networks)
        except UnresolvedHostError:
            raise StreamLostError(CameraFault.NAME_UNKNOWN) from None
        except AddressNotAllowedError:
            raise StreamLostError(CameraFault.ADDRESS_REFUSED) from None
        return CameraAddress(addresses, url.port, url.host if url.scheme == "rtsps" else None)


async def capture(job: CaptureJob, means: Deps) -> None:
    """Take a job that has begun to its end.

    Raises:
        GivenAway: the request is another worker's by now.
    """
    request = job.request
    plan = CapturePlan.from_json(request.asked)
    items = await means.outlets.requests.items(request.request_id)
    collector = Collector(means.outlets, request.request_id, Source(request.source_id, request.site), items)
    job.note(frames_asked=plan.frame_count, duration_asked_s=plan.duration_s, frames_published=collector.count)
    try:
        try:
            await Recorder(job, means, collector).record()
        finally:
            await collector.settle()
        await job.move(CaptureState.UPLOADING)
        await collector.durable()
        await job.move(CaptureState.INGESTED)
    except StreamLostError as lost:
        job.note(frames_published=collector.count)
        await job.fail(lost.fault)
