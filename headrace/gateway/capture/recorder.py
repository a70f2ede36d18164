"""Captures one request: connects to the camera, records, and reconnects until there is enough."""

import asyncio
import time
from dataclasses import dataclass, field

from headrace.gateway.capture.camera_faults import RECONNECT_BACKOFF, CameraFault, StreamLostError, should_give_up
from headrace.gateway.capture.camera_url import CameraUrl, CredentialCipher, DecryptionError, parse_camera_url
from headrace.gateway.capture.capture_request import CaptureMode, CapturePlan, CaptureState
from headrace.gateway.capture.job import CaptureJob, LeaseLostError
from headrace.gateway.capture.media_publisher import ClipFrames, MediaPublisher, PublishingDeps
from headrace.gateway.capture.rtsp_proxy import CameraAddress
from headrace.gateway.capture.rtsp_stream import CapturedFrame, RtspStream, StreamInfo, StreamRequest
from headrace.gateway.capture.standing import add_successor, successor_of, withdraw_successor
from headrace.producers.source import Source
from headrace.runtime.addresses import AddressNotAllowedError, UnresolvedHostError, networks_of, resolve
from headrace.runtime.metrics import capture_frames_total, capture_reconnects_total

CONNECTING_S_MAX = 300.0  # beyond the recording itself, for all connections together
_REMAINING_S_MIN = 0.1


@dataclass(frozen=True, slots=True)
class RecorderDeps:
    """What a capture needs; `cipher` is None where no secret is configured, `confined` is whether decoders are.

    `camera_networks` is the setting.
    """

    publishing: PublishingDeps
    cipher: CredentialCipher | None
    camera_networks: str
    confined: bool


@dataclass(slots=True)
class _RecordingTime:
    started_s: float = field(default_factory=time.monotonic)
    first_frame_s: float | None = None
    last_frame_s: float = 0.0

    def note_frame(self) -> None:
        self.last_frame_s = time.monotonic()
        self.first_frame_s = self.last_frame_s if self.first_frame_s is None else self.first_frame_s

    def remaining_s(self, duration_s: float) -> float:
        return duration_s if self.first_frame_s is None else duration_s - (time.monotonic() - self.first_frame_s)

    @property
    def recorded_s(self) -> float:
        return 0.0 if self.first_frame_s is None else round(self.last_frame_s - self.first_frame_s, 3)


class Recorder:
    """Captures the stream of one job."""

    def __init__(self, job: CaptureJob, deps: RecorderDeps, publisher: MediaPublisher) -> None:
        """Prepare; nothing is connected yet."""
        self._job = job
        self._deps = deps
        self._publisher = publisher
        self._plan = CapturePlan.from_json(job.request.asked)
        self._time = _RecordingTime()
        self._clip = ClipFrames()
        self._frames_received = 0

    async def record(self) -> None:
        """Capture until there are enough frames or the recording time is over.

        Raises:
            StreamLostError: the stream failed or brought too few frames.
            LeaseLostError: another worker holds the lease.
        """
        failures = 0
        while not self._is_complete():
            received = self._frames_received
            try:
                await self._read_stream()
                break
            except StreamLostError as lost:
                failures = 0 if self._frames_received > received else failures + 1
                self._update_progress(lost.fault)
                reconnects = self._job.progress.reconnects
                if should_give_up(lost.fault, failures=failures, reconnects=reconnects) or self._is_overdue():
                    raise
                await self._prepare_reconnect(reconnects + 1, failures)
        await self._finish()

    async def _prepare_reconnect(self, reconnects: int, failures: int) -> None:
        self._job.update_progress(reconnects=reconnects)
        capture_reconnects_total.inc()
        if self._job.state is CaptureState.RECORDING:
            await self._job.transition(CaptureState.CONNECTING)
        await asyncio.sleep(RECONNECT_BACKOFF.delay_s(failures))

    async def _finish(self) -> None:
        if self._plan.mode is CaptureMode.CLIP and len(self._clip):
            await self._publisher.add_clip(self._clip)
        await self._publisher.flush()
        self._update_progress(None)
        if self._publisher.count < max(1, self._plan.frame_count):
            raise StreamLostError(CameraFault.TOO_FEW_FRAMES)

    def _update_progress(self, fault: CameraFault | None) -> None:
        changes: dict[str, object] = {} if fault is None else {"last_error": fault.value}
        self._job.update_progress(
            frames_published=self._publisher.count, duration_obtained_s=self._time.recorded_s, **changes
        )

    def _is_complete(self) -> bool:
        return (
            self._frames_remaining() == 0
            or self._clip.is_full
            or self._time.remaining_s(self._plan.duration_s) < _REMAINING_S_MIN
        )

    def _frames_remaining(self) -> int | None:
        """Return the number of frames still to capture; None where only the duration counts."""
        return max(0, self._plan.frame_count - self._publisher.published) if self._plan.frame_count else None

    def _is_overdue(self) -> bool:
        return time.monotonic() - self._time.started_s > CONNECTING_S_MAX + self._plan.duration_s

    async def _read_stream(self) -> None:
        url = self._camera_url()
        request = StreamRequest(
            target=url.target,
            login=None if url.login is None else (url.login.user, url.login.password),
            fps=self._plan.fps,
            duration_s=self._time.remaining_s(self._plan.duration_s),
            frame_count=self._frames_remaining() or 0,
        )
        async with RtspStream(await self._resolve(url), request, confined=self._deps.confined) as stream:
            async for item in stream.items():
                await self._handle(item)
                if self._is_complete():
                    return

    async def _handle(self, item: StreamInfo | CapturedFrame) -> None:
        if isinstance(item, StreamInfo):
            self._job.update_progress(codec=item.codec, width=item.width, height=item.height)
            await self._job.transition(CaptureState.RECORDING)
            return
        self._time.note_frame()
        self._frames_received += 1
        capture_frames_total.inc()
        self._job.update_progress(frames_got=self._job.progress.frames_got + 1)
        if self._plan.mode is CaptureMode.CLIP:
            self._clip.add(item)
        else:
            await self._publisher.add_frame(item)
        self._update_progress(None)

    def _camera_url(self) -> CameraUrl:
        redacted, request = parse_camera_url(self._plan.url), self._job.request
        if request.sealed is None:
            return redacted
        if self._deps.cipher is None:
            raise StreamLostError(CameraFault.SEAL_BROKEN)
        try:
            return self._deps.cipher.decrypt(request.request_id, request.sealed, redacted)
        except DecryptionError:
            raise StreamLostError(CameraFault.SEAL_BROKEN) from None

    async def _resolve(self, url: CameraUrl) -> CameraAddress:
        """Resolve the host name and check its addresses: they may have changed since the gateway checked them."""
        try:
            networks = networks_of(self._deps.camera_networks, self._job.request.site)
            addresses = await resolve(url.host, url.port, networks)
        except UnresolvedHostError:
            raise StreamLostError(CameraFault.NAME_UNKNOWN) from None
        except AddressNotAllowedError:
            raise StreamLostError(CameraFault.ADDRESS_REFUSED) from None
        return CameraAddress(addresses, url.port, url.host if url.scheme == "rtsps" else None, url.host)


async def capture(job: CaptureJob, deps: RecorderDeps) -> None:
    """Capture an acquired job, from the first connection to its final state.

    Raises:
        LeaseLostError: another worker holds the lease.
    """
    request = job.request
    plan = CapturePlan.from_json(request.asked)
    items = await deps.publishing.requests.items(request.request_id)
    publisher = MediaPublisher(deps.publishing, request.request_id, Source(request.source_id, request.site), items)
    job.update_progress(
        frames_asked=plan.frame_count, duration_asked_s=plan.duration_s, frames_published=publisher.count
    )
    requests, successor = deps.publishing.requests, successor_of(request, deps.cipher)
    try:
        try:
            try:
                await Recorder(job, deps, publisher).record()
            finally:
                await publisher.flush()
            await job.transition(CaptureState.UPLOADING)
            await publisher.wait_durable()
            await add_successor(requests, successor)
            await job.transition(CaptureState.INGESTED)
        except StreamLostError as lost:
            job.update_progress(frames_published=publisher.count)
            await add_successor(requests, successor)
            await job.fail(lost.fault)
    except LeaseLostError:
        if successor is not None:
            await withdraw_successor(requests, request.request_id)
        raise
