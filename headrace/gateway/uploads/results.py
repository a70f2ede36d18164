"""Record ingest requests, wait until their events are durable, and report their status."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from headrace.gateway.problems import Problem
from headrace.gateway.uploads.publish import PublishedItem, UploadSource
from headrace.runtime.background_task import first
from headrace.runtime.errors import HeadraceError
from headrace.runtime.metrics import gateway_answers_waiting
from headrace.store.requests.ingest_requests import IngestRequests, NewRequest, RequestItem
from headrace.store.requests.ingest_status import IngestStatus, IngestStatuses, MessageRef

_POLL_S = 0.5  # without a notification
_MESSAGES_PER_QUERY_MAX = 1000
_PENDING = IngestStatus(ingested=False, code=None, reason=None)


class SourceType(StrEnum):
    """How a request's frames come in."""

    UPLOAD = "upload"
    RTSP = "rtsp"


class IngestionStatus(StrEnum):
    """The state of a request, or of a file of it; `accepted` means that it is not durable yet."""

    REQUESTED = "requested"
    CONNECTING = "connecting"
    RECORDING = "recording"
    UPLOADING = "uploading"
    ACCEPTED = "accepted"
    INGESTED = "ingested"
    PARTIAL = "partial"
    FAILED = "failed"


class FileError(BaseModel):
    """Why a file was rejected."""

    code: str = Field(examples=["not_an_image"])
    detail: str


class FrameInfo(BaseModel):
    """A file with its properties and location, or its error."""

    filename: str | None
    status: IngestionStatus = Field(description="`ingested`, `accepted` while it is not durable yet, or `failed`.")
    frame_id: str | None = Field(None, description="The id of the record.")
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    media_type: str | None = None
    exif: dict[str, Any] | None = None
    sha256: str | None = None
    storage_key: str | None = None
    presigned_url: str | None = Field(None, description="A URL of the bytes, valid for an hour.")
    error: FileError | None = None


class IngestionResponse(BaseModel):
    """The state of a request: an upload has its files, a capture the path under which its state is found."""

    request_id: str
    status: IngestionStatus = Field(description="Of an upload: `ingested`, `accepted`, `partial` or `failed`.")
    camera_id: str | None = None
    files: list[FrameInfo] | None = None
    status_url: str | None = Field(None, examples=["/api/v1/ingest/status/8b1c…"])


class IngestWait:
    """Waits until published messages are durable; one query serves all that wait, after each notification."""

    def __init__(self, statuses: IngestStatuses, notified: asyncio.Event) -> None:
        """`notified` is set when workers have committed: `listen` of the catalog."""
        self._statuses = statuses
        self._notified = notified
        self._futures: dict[MessageRef, asyncio.Future[IngestStatus]] = {}
        self._waiters: Counter[MessageRef] = Counter()
        self._has_waiters = asyncio.Event()

    async def outcomes(self, messages: Sequence[MessageRef], wait_s_max: float) -> list[IngestStatus]:
        """Return the status of each message, once all are final or after `wait_s_max` seconds."""
        loop = asyncio.get_running_loop()
        futures = [self._futures.setdefault(message, loop.create_future()) for message in messages]
        self._waiters.update(messages)
        self._has_waiters.set()
        gateway_answers_waiting.inc(len(futures))
        try:
            if futures:
                await asyncio.wait(futures, timeout=wait_s_max)
            return [future.result() if future.done() else _PENDING for future in futures]
        finally:
            gateway_answers_waiting.dec(len(futures))
            self._waiters.subtract(messages)
            for message in set(messages):
                if self._waiters[message] == 0:
                    del self._futures[message], self._waiters[message]

    async def run(self) -> None:
        """Query the catalog after each notification, and now and then without, until cancelled."""
        while True:
            if not self._futures:
                await self._has_waiters.wait()
            self._has_waiters.clear()
            self._notified.clear()
            if await self._poll():
                await first(_POLL_S, self._notified, self._has_waiters)
            else:
                await asyncio.sleep(_POLL_S)

    async def _poll(self) -> bool:
        messages = [message for message, future in self._futures.items() if not future.done()]
        messages = messages[:_MESSAGES_PER_QUERY_MAX]
        try:
            statuses = await self._statuses.outcomes(messages) if messages else []
        except HeadraceError:
            return False  # each waiter has its own timeout
        for message, status in zip(messages, statuses, strict=True):
            future = self._futures.get(message)
            if status.is_final and future is not None and not future.done():
                future.set_result(status)
        return True


@dataclass(frozen=True, slots=True)
class IngestResults:
    """Records ingest requests, and waits at most `answer_s_max` seconds for their events."""

    requests: IngestRequests
    wait: IngestWait
    answer_s_max: float

    async def record(
        self,
        request_id: UUID,
        actor: str,
        source: UploadSource,
        published: Sequence[PublishedItem],
        rejected: Sequence[RequestItem] = (),
    ) -> list[IngestStatus]:
        """Record a request, and return the status of each published item.

        The status of an event that an agent rejects has the rejection's code.
        """
        request = NewRequest(
            request_id=request_id,
            kind="upload",
            actor=actor,
            site=source.site,
            source_id=source.source_id,
            state="uploading",
        )
        items = [*(entry.item for entry in published), *rejected]
        adding = asyncio.ensure_future(self.requests.add(request, items))
        statuses = await self.wait.outcomes([entry.message for entry in published], self.answer_s_max)
        await adding
        return statuses


@dataclass(frozen=True, slots=True)
class ItemStatus:
    """An item of a request and its status; `code` says why it failed."""

    item: RequestItem
    ingested: bool
    code: str | None
    reason: str | None

    @classmethod
    def of(cls, item: RequestItem, status: IngestStatus | None) -> "ItemStatus":
        """Combine an item with its event's status; an item without an event was rejected by the gateway."""
        if status is None:
            return cls(item, ingested=False, code=item.code, reason=item.reason)
        return cls(item, status.ingested, status.code, status.reason)


def state_of(items: Sequence[ItemStatus]) -> IngestionStatus:
    """Return an upload's state: `uploading` while an item is pending, else `ingested`, `partial` or `failed`."""
    if any(not item.ingested and item.code is None for item in items):
        return IngestionStatus.UPLOADING
    ingested = sum(item.ingested for item in items)
    if ingested == len(items):
        return IngestionStatus.INGESTED
    return IngestionStatus.PARTIAL if ingested else IngestionStatus.FAILED


def status_of(status: IngestStatus) -> str:
    """Return `ingested`, or `accepted` while the event is pending.

    Raises:
        Problem: the event was rejected (422).
    """
    if status.code is not None:
        raise Problem(
            422, status.code, status.reason or "the event was rejected", hint="`headrace dlq show` prints the event"
        )
    return "ingested" if status.ingested else "accepted"


def status_path(request_id: object) -> str:
    """Return the path of a request's status."""
    return f"/api/v1/ingest/status/{request_id}"
