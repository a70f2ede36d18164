"""Publishes the frames and clips of one request, records them as its items, and waits until they are durable."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from uuid import UUID

import orjson

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_stream import CapturedFrame
from headrace.gateway.uploads.results import IngestWait
from headrace.producers.bodies import describe_clip, describe_frame
from headrace.producers.clips import RING_BYTES_MAX, cut
from headrace.producers.delivery import Delivery, NotDeliveredError
from headrace.producers.publisher import Publisher
from headrace.producers.source import Source
from headrace.producers.video_frames import VideoFrame
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.digest import record_id
from headrace.schemas.events import Clip, Frame, Kind, kind_of
from headrace.schemas.reject import RejectedError
from headrace.store.requests.ingest_requests import IngestRequests, RequestItem
from headrace.store.requests.ingest_status import MessageRef

IN_FLIGHT_MAX = 32  # frames published before their acknowledgements are awaited
DURABLE_S_MAX = 600.0
_STATUS_BATCH_MAX = 500
_RETRY_S = 1.0
_CLOCK_MARGIN_S = 60.0  # how far the catalog's clock may be behind this machine's


@dataclass(frozen=True, slots=True)
class PublishingDeps:
    """What a MediaPublisher needs."""

    publisher: Publisher
    requests: IngestRequests
    ingest_wait: IngestWait


class MediaPublisher:
    """Publishes what is captured for one request; `count` is the number of its acknowledged frames or clips."""

    def __init__(self, deps: PublishingDeps, request_id: UUID, source: Source, items: Sequence[RequestItem]) -> None:
        """Continue after the items that a previous worker published."""
        self._deps = deps
        self._request_id = request_id
        self._source = source
        self._in_flight: list[tuple[RequestItem, Delivery]] = []
        self._acknowledged: list[RequestItem] = []
        self._messages: list[MessageRef] = []  # not known to be durable yet
        self._started_at_s = time.time() - _CLOCK_MARGIN_S
        self._next_index = max((item.index for item in items), default=-1) + 1
        self._attributes = orjson.dumps({"capture_request": str(request_id)})
        self.count = 0
        for item in items:
            self._count(item, 0.0)

    @property
    def published(self) -> int:
        """The number of published frames or clips, acknowledged or not."""
        return self.count + len(self._acknowledged) + len(self._in_flight)

    async def add_frame(self, frame: CapturedFrame) -> None:
        """Publish a frame.

        Raises:
            StreamLostError: the frame is invalid, or Kafka does not acknowledge it.
        """
        origin = self._source.origin(frame.captured_at_us)
        try:
            await self._publish(describe_frame(frame.body, origin, attributes=self._attributes))
        except RejectedError:
            raise StreamLostError(CameraFault.UNDECODABLE) from None
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            await self.flush()

    async def add_clip(self, frames: "ClipFrames") -> None:
        """Encode frames as a clip and publish it.

        Raises:
            StreamLostError: the frames cannot be encoded, or Kafka does not acknowledge the clip.
        """
        try:
            body = await asyncio.to_thread(cut, frames.encodable())
            if body is None:
                raise StreamLostError(CameraFault.UNDECODABLE)
            await self._publish(describe_clip(body, self._source.origin(frames.captured_at_us)))
        except RejectedError:
            raise StreamLostError(CameraFault.UNDECODABLE) from None
        finally:
            frames.cancel_encoding()
        await self.flush()

    async def flush(self) -> None:
        """Wait for the acknowledgements of what was published, and record the items.

        Raises:
            StreamLostError: Kafka does not acknowledge an item.
        """
        while self._in_flight:
            item, delivery = self._in_flight[0]
            try:
                result = await asyncio.wrap_future(delivery)
            except NotDeliveredError:
                raise StreamLostError(CameraFault.NOT_DELIVERED) from None
            acknowledged = replace(
                item, topic=result.topic, partition=result.partition, offset=result.offset, digest=result.digest
            )
            del self._in_flight[0]
            self._acknowledged.append(acknowledged)
        await self._record_items()

    async def wait_durable(self) -> None:
        """Wait until all items are durable.

        Raises:
            StreamLostError: an item was rejected, or is not durable in time.
        """
        while self._messages:
            batch = self._messages[:_STATUS_BATCH_MAX]
            statuses = await self._deps.ingest_wait.outcomes(batch, DURABLE_S_MAX)
            if any(status.code is not None for status in statuses):
                raise StreamLostError(CameraFault.REJECTED)
            if not all(status.ingested for status in statuses):
                raise StreamLostError(CameraFault.NOT_DURABLE)
            del self._messages[: len(batch)]

    async def _record_items(self) -> None:
        while self._acknowledged:
            try:
                await self._deps.requests.add_items(self._request_id, self._acknowledged)
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="postgres", why=error.what)
                await asyncio.sleep(_RETRY_S)
                continue
            for item in self._acknowledged:
                self._count(item, self._started_at_s)
            self._acknowledged.clear()

    async def _publish(self, event: Frame | Clip) -> None:
        item = RequestItem(
            index=self._next_index,
            filename=None,
            kind=kind_of(event).value,
            media_type=event.media_type,
            size_bytes=event.size_bytes,
            width=event.width if isinstance(event, Frame) else None,
            height=event.height if isinstance(event, Frame) else None,
        )
        self._next_index += 1
        self._in_flight.append((item, await asyncio.to_thread(self._deps.publisher.publish, event)))

    def _count(self, item: RequestItem, since_s: float) -> None:
        if item.topic is None or item.partition is None or item.offset is None or item.digest is None:
            return
        record = record_id(Kind(item.kind or ""), item.digest)
        self._messages.append(MessageRef(item.topic, item.partition, item.offset, record, since_s))
        self.count += 1


class ClipFrames:
    """The frames of a clip, limited to RING_BYTES_MAX bytes."""

    def __init__(self) -> None:
        """Start empty."""
        self._frames: list[VideoFrame] = []
        self._bytes = 0
        self._cancelled = Event()

    @property
    def is_full(self) -> bool:
        """Whether the size limit is reached."""
        return self._bytes >= RING_BYTES_MAX

    @property
    def captured_at_us(self) -> int:
        """When the first frame was captured, in Unix microseconds."""
        return self._frames[0].captured_at_us

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: CapturedFrame) -> None:
        """Append a frame."""
        first_us = self._frames[0].captured_at_us if self._frames else frame.captured_at_us
        self._frames.append(VideoFrame(frame.body, max(0, frame.captured_at_us - first_us), frame.captured_at_us))
        self._bytes += len(frame.body)

    def cancel_encoding(self) -> None:
        """End the iteration of a thread that encodes the frames: a thread cannot be cancelled otherwise."""
        self._cancelled.set()

    def encodable(self) -> Iterator[VideoFrame]:
        """Yield the frames until `cancel_encoding` is called."""
        for frame in self._frames:
            if self._cancelled.is_set():
                return
            yield frame
