"""From pictures to events in Kafka, and to the items of their request; and then waiting until they are durable."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event
from uuid import UUID

import orjson

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_stream import CapturedFrame
from headrace.gateway.uploads.ingest_wait import IngestWait
from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.clip import RING_BYTES_MAX, cut
from headrace.producers.delivery import Delivery, NotDeliveredError
from headrace.producers.publisher import Publisher
from headrace.producers.source import Source
from headrace.producers.video_frames import VideoFrame
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.digest import record_id
from headrace.schemas.events import Clip, Frame, Kind, kind_of
from headrace.schemas.reject import RejectedError
from headrace.store.requests.ingest_status import MessageRef
from headrace.store.requests.requests import IngestRequests, RequestItem

TOGETHER_MAX = 32  # frames on their way before their places are noted
DURABLE_S_MAX = 600.0
_LANDINGS_AT_ONCE_MAX = 500
_RETRY_S = 1.0
_CLOCK_MARGIN_S = 60.0  # the catalog's clock may be so much behind ours


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where pictures go."""

    publisher: Publisher
    requests: IngestRequests
    landing: IngestWait


class Collector:
    """Publishes what is captured for one request; `count` frames or clips of it are out."""

    def __init__(self, outlets: Outlets, request_id: UUID, source: Source, items: Sequence[RequestItem]) -> None:
        """Go on after the items that a worker before had published."""
        self._outlets = outlets
        self._request_id = request_id
        self._source = source
        self._waiting: list[tuple[RequestItem, Delivery]] = []
        self._settled: list[RequestItem] = []
        self._places: list[MessageRef] = []
        self._since_s = time.time() - _CLOCK_MARGIN_S
        self._next = max((item.index for item in items), default=-1) + 1
        self._attributes = orjson.dumps({"capture_request": str(request_id)})
        self.count = 0
        for item in items:
            self._note(item, 0.0)

    @property
    def published(self) -> int:
        """How many were handed over, whether Kafka has them by now or not."""
        return self.count + len(self._settled) + len(self._waiting)

    async def add(self, picture: CapturedFrame) -> None:
        """Publish a frame.

        Raises:
            StreamLost: it could not be.
        """
        origin = self._source.origin(picture.captured_at_us)
        try:
            await self._publish(describe_frame(picture.body, origin, attributes=self._attributes))
        except RejectedError:
            raise StreamLostError(CameraFault.UNDECODABLE) from None
        if len(self._waiting) >= TOGETHER_MAX:
            await self.settle()

    async def add_clip(self, shots: "Recording") -> None:
        """Make a clip of shots and publish it.

        Raises:
            StreamLost: it could not be.
        """
        try:
            body = await asyncio.to_thread(cut, shots.as_list())
            if body is None:
                raise StreamLostError(CameraFault.UNDECODABLE)
            await self._publish(describe_clip(body, self._source.origin(shots.began_at_us)))
        except RejectedError:
            raise StreamLostError(CameraFault.UNDECODABLE) from None
        finally:
            shots.abandon()
        await self.settle()

    async def settle(self) -> None:
        """Wait until Kafka has what was published, and note where.

        Raises:
            StreamLost: it does not take it.
        """
        while self._waiting:
            item, delivery = self._waiting[0]
            try:
                at = await asyncio.wrap_future(delivery)
            except NotDeliveredError:
                raise StreamLostError(CameraFault.NOT_DELIVERED) from None
            placed = replace(item, topic=at.topic, partition=at.partition, offset=at.offset, digest=at.digest)
            del self._waiting[0]
            self._settled.append(placed)
        await self._keep_settled()

    async def _keep_settled(self) -> None:
        while self._settled:
            try:
                await self._outlets.requests.add_items(self._request_id, self._settled)
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                await asyncio.sleep(_RETRY_S)
                continue
            for item in self._settled:
                self._note(item, self._since_s)
            self._settled.clear()

    async def durable(self) -> None:
        """Wait until everything is durable.

        Raises:
            StreamLost: it is not in time, or can never be.
        """
        while self._places:
            first = self._places[:_LANDINGS_AT_ONCE_MAX]
            outcomes = await self._outlets.landing.outcomes(first, DURABLE_S_MAX)
            if any(one.code is not None for one in outcomes):
                raise StreamLostError(CameraFault.REJECTED)
            if not all(one.ingested for one in outcomes):
                raise StreamLostError(CameraFault.NOT_DURABLE)
            del self._places[: len(first)]

    async def _publish(self, event: Frame | Clip) -> None:
        item = RequestItem(
            index=self._next,
            filename=None,
            kind=kind_of(event).value,
            media_type=event.media_type,
            size_bytes=event.size_bytes,
            width=event.width if isinstance(event, Frame) else None,
            height=event.height if isinstance(event, Frame) else None,
        )
        self._next += 1
        self._waiting.append((item, await asyncio.to_thread(self._outlets.publisher.publish, event)))

    def _note(self, item: RequestItem, since_s: float) -> None:
        if item.topic is None or item.partition is None or item.offset is None or item.digest is None:
            return
        record = record_id(Kind(item.kind or ""), item.digest)
        self._places.append(MessageRef(item.topic, item.partition, item.offset, record, since_s))
        self.count += 1


class Recording:
    """The pictures of a clip to be, and never more than RING_BYTES_MAX of them."""

    def __init__(self) -> None:
        """Begin empty."""
        self._shots: list[VideoFrame] = []
        self._bytes = 0
        self._abandoned = Event()

    @property
    def is_full(self) -> bool:
        """Whether no more fits in."""
        return self._bytes >= RING_BYTES_MAX

    @property
    def began_at_us(self) -> int:
        """When its first picture came."""
        return self._shots[0].captured_at_us

    def __len__(self) -> int:
        return len(self._shots)

    def add(self, picture: CapturedFrame) -> None:
        """Keep a picture."""
        first_us = self._shots[0].captured_at_us if self._shots else picture.captured_at_us
        self._shots.append(VideoFrame(picture.body, max(0, picture.captured_at_us - first_us), picture.captured_at_us))
        self._bytes += len(picture.body)

    def abandon(self) -> None:
        """End whoever makes a clip of it, which no thread can be made to otherwise."""
        self._abandoned.set()

    def as_list(self) -> "list[VideoFrame]":
        """Return the shots, as long as they are wanted."""
        return _Wanted(self._shots, self._abandoned)


class _Wanted(list[VideoFrame]):
    def __init__(self, shots: Sequence[VideoFrame], abandoned: Event) -> None:
        super().__init__(shots)
        self._abandoned = abandoned

    def __iter__(self):  # type: ignore[no-untyped-def] # noqa: ANN204 - as that of a list
        for shot in super().__iter__():
            if self._abandoned.is_set():
                return
            yield shot
