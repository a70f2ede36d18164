"""From a message's bytes to what is to be done with it."""

import re
from dataclasses import dataclass
from typing import assert_never

from headrace.runtime.crash_points import CrashPoint, Reached, nowhere
from headrace.schemas.codec import decode
from headrace.schemas.digest import canonical_body, sha256_hex, staging_prefix
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo, Origin
from headrace.schemas.headers import traceparent_of
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.streams.core.checks import check
from headrace.streams.core.delivery import ConsumedMessage

JSON_MEDIA_TYPE = "application/json"

_STAGED_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,199}")
_KEY_SEGMENT_BYTES_MAX = 255  # between two slashes; MinIO keeps them as file names

_EVENTS: dict[Kind, type[InputEvent]] = {Kind.CID: Cid, Kind.FRAME: Frame, Kind.CLIP: Clip, Kind.LDO: Ldo}


@dataclass(frozen=True, slots=True)
class AcceptedDelivery:
    """A good message. `body` is what is stored, and None where it is still staged."""

    delivery: ConsumedMessage
    event: InputEvent
    digest: str
    media_type: str
    size_bytes: int
    body: bytes | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class RefusedDelivery:
    """A message that can never be ingested. `origin` is None where even that could not be read."""

    delivery: ConsumedMessage
    code: RejectCode
    reason: str
    origin: Origin | None


def examine(
    kind: Kind, delivery: ConsumedMessage, now_us: int, reached: Reached = nowhere
) -> AcceptedDelivery | RefusedDelivery:
    """Decode, check and hash one message. Never raises for anything that a message can hold.

    `reached` is told each named crash point.
    """
    event: InputEvent | None = None
    try:
        event = decode(delivery.value, _EVENTS[kind])
        reached(CrashPoint.AFTER_DECODE)
        check(event, now_us)
        accepted = _accepted(delivery, event)
    except RejectedError as rejected:
        return RefusedDelivery(delivery, rejected.code, rejected.reason, _trusted(event))
    reached(CrashPoint.AFTER_HASH)
    return accepted


def refuse(accepted: AcceptedDelivery, code: RejectCode, reason: str) -> RefusedDelivery:
    """Return the refusal of a message whose staged body turned out to be wrong."""
    return RefusedDelivery(accepted.delivery, code, reason, accepted.event)


def _accepted(delivery: ConsumedMessage, event: InputEvent) -> AcceptedDelivery:
    traceparent = traceparent_of(delivery.headers)
    match event:
        case Cid() | Ldo():
            body = canonical_body(event)
            return AcceptedDelivery(delivery, event, sha256_hex(body), JSON_MEDIA_TYPE, len(body), body, traceparent)
        case Frame() | Clip():
            if event.claim is not None and event.body is None:
                _check_claim(event, event.claim)
            return AcceptedDelivery(
                delivery, event, event.sha256, event.media_type, event.size_bytes, event.body, traceparent
            )
        case _:
            assert_never(event)


def _check_claim(event: Frame | Clip, claim: str) -> None:
    # A source may name only what lies in its own staging area: a claim must not be a way to read or move others' blobs.
    prefix = staging_prefix(event.site, event.source_id)
    if not claim.startswith(prefix):
        raise RejectedError(RejectCode.CLAIM_REFUSED, "claim is not below this source's own staging area")
    # A key that the store itself refuses would look like a broken store, and hold up every message behind it.
    if not _STAGED_NAME.fullmatch(claim[len(prefix) :]) or max(map(len, claim.split("/"))) > _KEY_SEGMENT_BYTES_MAX:
        raise RejectedError(RejectCode.CLAIM_REFUSED, "claim is not a key under which a body can be staged")


def _trusted(event: InputEvent | None) -> Origin | None:
    """Return who sent it, where the names at least are sound, since they go into the catalog as text."""
    if event is None or not all(
        name.isprintable() and 0 < len(name) <= NAME_BYTES_MAX for name in (event.source_id, event.site)
    ):
        return None
    return event
