"""From an event to its Kafka message; a body too large for a message is staged in the blob store first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from headrace.producers.source import unix_us
from headrace.runtime import metrics
from headrace.runtime.errors import HeadraceError
from headrace.schemas.codec import encode
from headrace.schemas.digest import staging_key
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Ldo, kind_of
from headrace.schemas.headers import Headers, headers_for, new_traceparent
from headrace.schemas.limits import CLOCK_SET_US_MIN, INLINE_BYTES_MAX, MIB
from headrace.schemas.topics import input_topic
from headrace.schemas.validate import check_body, validate
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import stage


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, with its event without the body."""

    event: InputEvent
    digest: str
    topic: str
    key: bytes
    headers: Headers
    value: bytes


class Dispatch:
    """Builds messages; large bodies are staged in `blobs`."""

    def __init__(self, blobs: Blobs | None, now_us: Callable[[], int] = unix_us) -> None:
        self._blobs = blobs
        self._now_us = now_us
        # Trace ids must differ but need not be secret; random bytes from the kernel would cost more than all else here.
        self._random = Random()  # noqa: S311

    def outgoing(self, event: InputEvent, body_path: Path | None, traceparent: str | None) -> Outgoing:
        """Validate and encode an event, and stage its body where that is too large for a message.

        Raises:
            RejectedError: the event can never be ingested. HeadraceError: a large body, and no blob store to stage it.
        """
        event, body = _claimed(event, body_path)
        valid = validate(event, self._now_us())
        if body is not None:
            self._stage(event, body)
        if event.captured_at_us < CLOCK_SET_US_MIN:
            metrics.producer_unset_clock_total.labels(kind_of(event).value).inc()
        traceparent = traceparent or new_traceparent(self._random.randbytes(24))
        return Outgoing(
            event_reference(event),
            valid.digest,
            input_topic(kind_of(event)).name,
            event.source_id.encode(),
            headers_for(event, subject=valid.digest, traceparent=traceparent),
            encode(event),
        )

    def _stage(self, event: InputEvent, body: bytes | Path) -> None:
        assert isinstance(event, Frame | Clip)
        if isinstance(body, bytes):
            check_body(event, body)
        if self._blobs is None:
            raise HeadraceError(
                "store_needed",
                f"a body of {event.size_bytes} bytes must be staged, and there is no blob store",
                hint=f"use Publisher.from_settings, or a body of at most {INLINE_BYTES_MAX} bytes",
            )
        stage_body(self._blobs, event, body)


def _claimed(event: InputEvent, body_path: Path | None) -> tuple[InputEvent, bytes | Path | None]:
    """Return the event as it is sent, and the body to stage where it is too large for the message."""
    if not isinstance(event, Frame | Clip) or event.claim is not None or event.size_bytes <= INLINE_BYTES_MAX:
        return event, None
    body = body_path if event.body is None else event.body
    if body is None:
        raise ValueError("a body above INLINE_BYTES_MAX needs body, claim or body_path")
    return replace(event, claim=staging_key(event.site, event.source_id, event.sha256), body=None), body


def event_reference(event: InputEvent) -> InputEvent:
    """Return the event without its body, so that an unacknowledged event keeps no second copy of it."""
    match event:
        case Frame() | Clip():
            return replace(event, body=None)
        case Ldo():
            return replace(event, body=b"")
        case Cid():
            return event


_CHUNK_BYTES = 4 * MIB


def stage_body(blobs: Blobs, event: Frame | Clip, body: bytes | Path) -> None:
    """Stage a body under the claim of its event; blocks until it is durable, and may be repeated.

    Raises:
        StoreUnavailableError, StoreRefusedError: the store failed.
        OSError: the file cannot be read.
    """
    assert event.claim is not None
    work = stage(blobs, event.claim, _chunks(body), media_type=event.media_type)
    # In a thread of its own, because the caller may run in an event loop, where asyncio.run is not possible.
    with ThreadPoolExecutor(1, "staging") as executor:
        executor.submit(asyncio.run, work).result()


async def _chunks(body: bytes | Path) -> AsyncIterator[bytes]:
    if isinstance(body, Path):
        with body.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    else:
        view = memoryview(body)
        for start in range(0, len(body), _CHUNK_BYTES):
            yield bytes(view[start : start + _CHUNK_BYTES])
