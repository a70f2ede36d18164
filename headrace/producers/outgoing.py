"""From an event to the message that carries it; the body that is too large for a message is staged on the way."""

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from headrace.producers.checks import check_event
from headrace.producers.claims import stage_body
from headrace.runtime.errors import HeadraceError
from headrace.schemas.codec import encode
from headrace.schemas.digest import canonical_body, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Ldo, kind_of
from headrace.schemas.headers import Headers, headers_for, new_traceparent
from headrace.schemas.limits import INLINE_BYTES_MAX
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, and the event that it carries, without its body."""

    event: InputEvent
    digest: str
    topic: str
    key: bytes
    headers: Headers
    value: bytes


class Dispatch:
    """Makes messages; `blobs` is where large bodies are staged."""

    def __init__(self, blobs: Blobs | None) -> None:
        self._blobs = blobs
        # Trace ids must differ, not be secret: asking the kernel for each would cost more than all else here.
        self._random = Random()  # noqa: S311

    def outgoing(self, event: InputEvent, body_path: Path | None, traceparent: str | None) -> Outgoing:
        """Check and encode an event.

        Raises:
            Rejected: it can never be ingested. HeadraceError: a large body finds no blob store.
        """
        check_event(event)
        digest = _digest_of(event)
        event = self._with_claim(event, body_path)
        return Outgoing(
            event_reference(event),
            digest,
            input_topic(kind_of(event)).name,
            event.source_id.encode(),
            headers_for(event, subject=digest, traceparent=traceparent or new_traceparent(self._random.randbytes(24))),
            encode(event),
        )

    def _with_claim(self, event: InputEvent, body_path: Path | None) -> InputEvent:
        if not isinstance(event, Frame | Clip) or event.claim is not None or event.size_bytes <= INLINE_BYTES_MAX:
            return event
        body = body_path if event.body is None else event.body
        if body is None:
            raise ValueError("a body above INLINE_BYTES_MAX needs body, claim or body_path")
        if self._blobs is None:
            raise HeadraceError(
                "store_needed",
                f"a body of {event.size_bytes} bytes does not fit a message and there is no blob store to stage it in",
                hint=f"use Publisher.from_settings, which has a store, or stay within {INLINE_BYTES_MAX} bytes",
            )
        return replace(event, claim=stage_body(self._blobs, event, body), body=None)


def event_reference(event: InputEvent) -> InputEvent:
    """Return the event without its body, so that what waits for an acknowledgement holds no second copy of it."""
    match event:
        case Frame() | Clip():
            return replace(event, body=None)
        case Ldo():
            return replace(event, body=b"")
        case Cid():
            return event


def _digest_of(event: InputEvent) -> str:
    match event:
        case Frame() | Clip():
            return event.sha256
        case Cid() | Ldo():
            return sha256_hex(canonical_body(event))
