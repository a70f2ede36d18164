"""One capture from its first connection to its last frame: connecting, recording, and connecting again."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.capture.collecting import Collector, Outlets, Recording
from gateway.capture.faults import delay_s, is_over
from gateway.capture.job import Job
from gateway.capture.plan import Mode, Plan
from gateway.capture.seal import SealBroken, Sealer
from gateway.capture.states import State
from gateway.capture.url import CameraUrl, parse
from producers.rtsp_door import Place
from producers.rtsp_faults import Fault, StreamLost
from producers.rtsp_stream import About, Picture, Stream, Wanted
from producers.source import Source
from runtime.addresses import Network
from runtime.metrics import capture_frames_total, capture_reconnects_total
from runtime.resolve import AddressRefused, Unresolved, resolve

STARTING_S_MAX = 300.0  # beyond the recording itself, for all connections together
_LEAST_S = 0.1


@dataclass(frozen=True, slots=True)
class Means:
    """What a capture is made with."""

    outlets: Outlets
    sealer: Sealer | None
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

    def __init__(self, job: Job, means: Means, collector: Collector) -> None:
        """Prepare; nothing is connected yet."""
        self._job = job
        self._means = means
        self._collector = collector
        self._plan = Plan.from_json(job.request.asked)
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
            except StreamLost as lost:
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
        if self._job.state is State.RECORDING:
            await self._job.move(State.CONNECTING)
        await asyncio.sleep(delay_s(in_vain))

    async def _finish(self) -> None:
        if self._plan.mode is Mode.CLIP and len(self._shots):
            await self._collector.add_clip(self._shots)
        await self._collector.settle()
        self._note(None)
        if self._collector.count < max(1, self._plan.frame_count):
            raise StreamLost(Fault.TOO_FEW_FRAMES)

    def _note(self, fault: Fault | None) -> None:
        known: dict[str, object] = {} if fault is None else {"last_error": fault.value}
        self._job.note(
            frames_published=self._collector.count, duration_obtained_s=self._clock.obtained_s, **known
        )  # fmt: skip

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
        wanted = Wanted(
            target=url.target, login=None if url.login is None else (url.login.user, url.login.password),
            fps=self._plan.fps, duration_s=self._clock.left_s(self._plan.duration_s),
            frame_count=self._frames_left() or 0,
        )  # fmt: skip
        async with Stream(await self._place(url), wanted) as stream:
            async for found in stream.found():
                await self._take(found)
                if self._has_enough():
                    return

    async def _take(self, found: About | Picture) -> None:
        if isinstance(found, About):
            self._job.note(codec=found.codec, width=found.width, height=found.height)
            await self._job.move(State.RECORDING)
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
            raise StreamLost(Fault.SEAL_BROKEN)
        try:
            return self._means.sealer.opened(request.request_id, request.sealed, shown)
        except SealBroken:
            raise StreamLost(Fault.SEAL_BROKEN) from None

    async def _place(self, url: CameraUrl) -> Place:
        """Look the name up, and check what it says now: the gateway's look was a while ago."""
        try:
            addresses = await resolve(url.host, url.port, self._means.networks)
        except Unresolved:
            raise StreamLost(Fault.NAME_UNKNOWN) from None
        except AddressRefused:
            raise StreamLost(Fault.ADDRESS_REFUSED) from None
        return Place(addresses, url.port, url.host if url.scheme == "rtsps" else None)


async def capture(job: Job, means: Means) -> None:
    """Take a job that has begun to its end.

    Raises:
        GivenAway: the request is another worker's by now.
    """
    request = job.request
    plan = Plan.from_json(request.asked)
    items = await means.outlets.requests.items(request.request_id)
    collector = Collector(means.outlets, request.request_id, Source(request.source_id, request.site), items)
    job.note(frames_asked=plan.frame_count, duration_asked_s=plan.duration_s, frames_published=collector.count)
    try:
        try:
            await Recorder(job, means, collector).record()
        finally:
            await collector.settle()
        await job.move(State.UPLOADING)
        await collector.durable()
        await job.move(State.INGESTED)
    except StreamLost as lost:
        job.note(frames_published=collector.count)
        await job.fail(lost.fault)
