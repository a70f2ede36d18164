"""From files that came to events in Kafka, and from there to an answer that says whether they are durable."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import HTTPConnection

from headrace.gateway.auth.principal import Principal
from headrace.gateway.credential_filter import refuse_logins
from headrace.gateway.services import Services
from headrace.gateway.uploads.inspection import Inspected
from headrace.gateway.uploads.receiving import Received
from headrace.producers.checks import check_event
from headrace.producers.source import fields_of
from headrace.runtime.metrics import gateway_file_bytes
from headrace.schemas.digest import record_id, staging_key
from headrace.schemas.events import Clip, Frame, InputEvent, Kind, Origin, kind_of
from headrace.schemas.headers import TRACEPARENT, traceparent_of
from headrace.schemas.limits import ATTRIBUTES_BYTES_MAX
from headrace.schemas.names import UNSHOWABLE, check_name
from headrace.store.blobs.staging import discard
from headrace.store.requests.ingest_status import IngestStatus, MessageRef
from headrace.store.requests.requests import NewRequest, RequestItem

_CLOCK_MARGIN_S = 60.0  # the catalog's clock may be so much behind ours


@dataclass(frozen=True, slots=True)
class UploadSource:
    """For whom something is taken."""

    site: str
    source_id: str


@dataclass(frozen=True, slots=True)
class PublishedItem:
    """An event that Kafka has, with the row that says so."""

    item: RequestItem
    place: MessageRef


async def take_file(  # noqa: PLR0913 - what is known of a file
    here: Services,
    request: HTTPConnection,
    source: UploadSource,
    received: Received,
    found: Inspected,
    *,
    index: int = 0,
    filename: str | None = None,
    about: str | None = None,
    captured_at_us: int | None = None,
) -> PublishedItem:
    """Publish a file that came whole as a frame or a clip.

    Raises:
        Rejected: it can never be ingested. NotDelivered: Kafka did not take it.
        StoreUnavailable, StoreRefused: the store does not take it.
    """
    origin = origin_of(here, source, captured_at_us)
    attributes = _attributes(filename, found.exif)
    event: Frame | Clip
    if found.kind is Kind.FRAME:
        event = Frame(
            **fields_of(origin),
            sha256=received.sha256,
            media_type=found.media_type,
            width=found.width or 0,
            height=found.height or 0,
            size_bytes=received.size_bytes,
            body=received.body,
            attributes=attributes,
        )
    else:
        event = Clip(
            **fields_of(origin),
            sha256=received.sha256,
            media_type=found.media_type,
            duration_us=found.duration_us or 0,
            size_bytes=received.size_bytes,
            body=received.body,
            about=about,
            attributes=attributes,
        )
    if received.claim is not None:
        # Checked first, under the claim that it will have: what is refused must not be handed over.
        event = replace(event, claim=staging_key(source.site, source.source_id, received.sha256))
        check_event(event)
        await _hand_over(here, received.claim, event.claim or "")
    gateway_file_bytes.labels(found.kind.value).observe(received.size_bytes)
    taken = await take_event(here, request, event, index=index, filename=filename)
    exif = orjson.dumps(found.exif).decode() if found.exif else None
    said = replace(
        taken.item,
        media_type=found.media_type,
        size_bytes=received.size_bytes,
        width=found.width,
        height=found.height,
        exif=exif,
    )
    return PublishedItem(said, taken.place)


async def take_event(
    here: Services, request: HTTPConnection, event: InputEvent, *, index: int = 0, filename: str | None = None
) -> PublishedItem:
    """Publish an event.

    Raises:
        Rejected: it can never be ingested. NotDelivered: Kafka did not take it.
    """
    since_s = time.time() - _CLOCK_MARGIN_S
    given = request.headers.get(TRACEPARENT)
    trace = None if given is None else traceparent_of([(TRACEPARENT, given.encode())])
    delivery = await asyncio.to_thread(here.publisher.publish, event, traceparent=trace)
    at = await asyncio.wrap_future(delivery)
    kind = kind_of(event)
    item = RequestItem(
        index=index,
        filename=filename,
        kind=kind.value,
        digest=at.digest,
        topic=at.topic,
        partition=at.partition,
        offset=at.offset,
    )
    return PublishedItem(item, MessageRef(at.topic, at.partition, at.offset, record_id(kind, at.digest), since_s))


async def settle(
    here: Services,
    caller: Principal,
    source: UploadSource,
    request_id: UUID,
    taken: Sequence[PublishedItem],
    refused: Sequence[RequestItem] = (),
) -> list[IngestStatus]:
    """Note what was taken and what was refused, and return what became of the former within the time that callers wait.

    An event that an agent refused although it was taken here has its outcome's code.
    """
    asked = NewRequest(
        request_id=request_id,
        kind="upload",
        actor=caller.actor,
        site=source.site,
        source_id=source.source_id,
        state="uploading",
    )
    adding = asyncio.ensure_future(here.requests.add(asked, [*(one.item for one in taken), *refused]))
    outcomes = await here.landing.outcomes([one.place for one in taken], here.settings.gateway_answer_s_max)
    await adding
    return outcomes


def source_of(
    here: Services, caller: Principal, site: str | None, source_id: str | None, otherwise: str
) -> UploadSource:
    """Return for whom something comes: as it says, or else as the key says, or else the gateway's own names.

    Raises:
        Rejected: that may not be a name. Problem: a login stands in it.
    """
    only = caller.only_source
    found = UploadSource(
        site or (only[0] if only else here.settings.gateway_site),
        source_id or (only[1] if only else otherwise),
    )
    check_name(found.site, "site")
    check_name(found.source_id, "source_id")
    refuse_logins([found.site, found.source_id], "the source's name")
    return found


def origin_of(here: Services, source: UploadSource, captured_at_us: int | None = None) -> Origin:
    """Return the origin of the source's next event, captured now unless it says otherwise."""
    number = here.sequence.next()
    now_us = time.time_ns() // 1000
    return Origin(
        source_id=source.source_id,
        site=source.site,
        captured_at_us=now_us if captured_at_us is None else captured_at_us,
        sequence=number,
    )


def shown_name(filename: str | None) -> str | None:
    """Return a file's name as it is kept: its last part, without a login or what would steer a terminal or a path."""
    if filename is None:
        return None
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    if "://" in filename:
        last = last.rpartition("@")[2]
    return UNSHOWABLE.sub("", last).encode(errors="replace").decode().strip() or None


async def _hand_over(here: Services, staged: str, claim: str) -> None:
    """Put a staged body where its source's bodies are staged: the agents look nowhere else for it."""
    await here.blobs.copy(staged, claim)
    await discard(here.blobs, staged)


def _attributes(filename: str | None, exif: dict[str, Any]) -> bytes:
    said = {name: value for name, value in (("filename", filename), ("exif", exif)) if value}
    attributes = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    return attributes if len(attributes) <= ATTRIBUTES_BYTES_MAX else b"{}"
