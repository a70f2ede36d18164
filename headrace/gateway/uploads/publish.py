"""Publish received files and events to Kafka."""

import asyncio
import time
from dataclasses import dataclass, replace

import orjson
from starlette.requests import HTTPConnection

from headrace.gateway.auth.principal import Principal
from headrace.gateway.credential_filter import refuse_credentials
from headrace.gateway.uploads.inspection import Inspected
from headrace.gateway.uploads.receiving import ReceivedBody
from headrace.producers.bodies import attributes_of
from headrace.producers.publisher import Publisher
from headrace.producers.source import SequenceCounter, fields_of
from headrace.runtime.metrics import gateway_file_bytes
from headrace.schemas.digest import record_id, staging_key
from headrace.schemas.events import Clip, Frame, InputEvent, Kind, Origin, TimeFrom, kind_of
from headrace.schemas.headers import TRACEPARENT, TRACESTATE, traceparent_of
from headrace.schemas.validate import UNSHOWABLE, check_captured_at, check_name, is_plausible_time, validate
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import discard
from headrace.store.requests.ingest_requests import RequestItem
from headrace.store.requests.ingest_status import MessageRef

_CLOCK_MARGIN_S = 60.0  # the catalog's clock may be so much behind ours


@dataclass(frozen=True, slots=True)
class UploadSource:
    """The site and the source of an upload."""

    site: str
    source_id: str


@dataclass(frozen=True, slots=True)
class FileDetails:
    """What the sender declares of a file; `index` is its position in the request."""

    index: int = 0
    filename: str | None = None
    about: str | None = None
    captured_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class PublishedItem:
    """An event that Kafka acknowledged: its row of the ingest request, and its message."""

    item: RequestItem
    message: MessageRef


@dataclass(frozen=True, slots=True)
class UploadPublisher:
    """Publishes what callers upload."""

    publisher: Publisher
    sequence: SequenceCounter
    blobs: Blobs

    def origin(self, source: UploadSource, captured_at_us: int | None = None) -> Origin:
        """Return the origin of the source's next event; without a time, it is captured now.

        Raises:
            RejectedError: the time is before 2000 or more than a day ahead, which a caller can correct.
        """
        now_us = time.time_ns() // 1000
        if captured_at_us is not None:
            check_captured_at(captured_at_us, now_us)
        number = self.sequence.next()
        return Origin(
            source_id=source.source_id,
            site=source.site,
            captured_at_us=now_us if captured_at_us is None else captured_at_us,
            sequence=number,
        )

    async def publish(
        self, event: InputEvent, traceparent: str | None, *, index: int = 0, filename: str | None = None
    ) -> PublishedItem:
        """Publish an event.

        Raises:
            RejectedError: the event is invalid.
            NotDeliveredError: Kafka did not acknowledge it.
        """
        since_s = time.time() - _CLOCK_MARGIN_S
        delivery = await asyncio.to_thread(self.publisher.publish, event, traceparent=traceparent)
        position = await asyncio.wrap_future(delivery)
        kind = kind_of(event)
        item = RequestItem(
            index=index,
            filename=filename,
            kind=kind.value,
            digest=position.digest,
            topic=position.topic,
            partition=position.partition,
            offset=position.offset,
        )
        record = record_id(kind, position.digest)
        return PublishedItem(item, MessageRef(position.topic, position.partition, position.offset, record, since_s))

    async def publish_file(
        self,
        source: UploadSource,
        received: ReceivedBody,
        inspected: Inspected,
        details: FileDetails,
        *,
        traceparent: str | None,
    ) -> PublishedItem:
        """Publish a received file as a frame or a clip.

        Raises:
            RejectedError: the file is invalid.
            NotDeliveredError: Kafka did not acknowledge it.
            StoreUnavailableError, StoreRefusedError: the blob store failed.
        """
        captured_at_us, time_from = _capture_time(details, inspected)
        event = _event_of(self.origin(source, captured_at_us), received, inspected, details, time_from)
        if received.claim is not None:
            # Checked first, under its final claim: a rejected file must not be moved there.
            event = replace(event, claim=staging_key(source.site, source.source_id, received.sha256))
            validate(event, time.time_ns() // 1000)
            await self._move_staged(received.claim, event.claim or "")
        gateway_file_bytes.labels(inspected.kind.value).observe(received.size_bytes)
        published = await self.publish(event, traceparent, index=details.index, filename=details.filename)
        item = replace(
            published.item,
            media_type=inspected.media_type,
            size_bytes=received.size_bytes,
            width=inspected.width,
            height=inspected.height,
            exif=orjson.dumps(inspected.exif).decode() if inspected.exif else None,
        )
        return PublishedItem(item, published.message)

    async def _move_staged(self, staged: str, claim: str) -> None:
        """Move a staged body to its source's prefix, the only one that the agents read."""
        await self.blobs.copy(staged, claim)
        await discard(self.blobs, staged)


def request_traceparent(connection: HTTPConnection) -> str | None:
    """Return the trace context of a request, or None where it has none or a malformed one."""
    # A list may come in several fields of one name.
    fields = {name: ",".join(connection.headers.getlist(name)) for name in (TRACEPARENT, TRACESTATE)}
    return traceparent_of((name, text.encode("latin-1")) for name, text in fields.items() if text)


def resolve_source(
    principal: Principal, site: str | None, source_id: str | None, default: UploadSource
) -> UploadSource:
    """Return the source of an upload: as the request names it, else the principal's only one, else the default.

    Raises:
        RejectedError: a name is invalid.
        Problem: a name holds a login (422).
    """
    only_site, only_source_id = principal.only_source or (principal.only_site or default.site, default.source_id)
    source = UploadSource(site or only_site, source_id or only_source_id)
    check_name(source.site, "site")
    check_name(source.source_id, "source_id")
    refuse_credentials([source.site, source.source_id], "the source's name")
    return source


def display_name(filename: str | None) -> str | None:
    """Return a file's name as it is stored: its last path segment, without logins and control characters."""
    if filename is None:
        return None
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    if "://" in filename:
        last = last.rpartition("@")[2]
    return UNSHOWABLE.sub("", last).encode(errors="replace").decode().strip() or None


def _capture_time(details: FileDetails, inspected: Inspected) -> tuple[int | None, TimeFrom]:
    """Return the sender's time, else the picture's own if it can be right, else None for now; and whose it is."""
    if details.captured_at_us is not None:
        return details.captured_at_us, TimeFrom.SENDER
    if is_plausible_time(inspected.captured_at_us, time.time_ns() // 1000):
        return inspected.captured_at_us, TimeFrom.EXIF
    return None, TimeFrom.RECEIVED


def _event_of(
    origin: Origin, received: ReceivedBody, inspected: Inspected, details: FileDetails, time_from: TimeFrom
) -> Frame | Clip:
    values = {"filename": details.filename, "exif": inspected.exif, **inspected.details, "captured_at_from": time_from}
    attributes = attributes_of(values)
    if inspected.kind is Kind.FRAME:
        return Frame(
            **fields_of(origin),
            sha256=received.sha256,
            media_type=inspected.media_type,
            width=inspected.width or 0,
            height=inspected.height or 0,
            size_bytes=received.size_bytes,
            body=received.body,
            attributes=attributes,
        )
    return Clip(
        **fields_of(origin),
        sha256=received.sha256,
        media_type=inspected.media_type,
        duration_us=inspected.duration_us or 0,
        size_bytes=received.size_bytes,
        body=received.body,
        about=details.about,
        attributes=attributes,
    )
