"""From a message's bytes to what is to be done with it."""

from dataclasses import dataclass

from headrace.runtime.crash_points import CrashPoint, Reached, nowhere
from headrace.schemas.codec import decode
from headrace.schemas.events import InputEvent, Kind, Origin
from headrace.schemas.headers import traceparent_of
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import INPUT_EVENTS, validate
from headrace.streams.core.delivery import ConsumedMessage


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
        event = decode(delivery.value, INPUT_EVENTS[kind])
        reached(CrashPoint.AFTER_DECODE)
        valid = validate(event, now_us)
    except RejectedError as rejected:
        return RefusedDelivery(delivery, rejected.code, rejected.reason, _trusted(event))
    reached(CrashPoint.AFTER_HASH)
    return AcceptedDelivery(
        delivery,
        event,
        valid.digest,
        valid.media_type,
        valid.size_bytes,
        valid.body,
        traceparent_of(delivery.headers),
    )


def refuse(accepted: AcceptedDelivery, code: RejectCode, reason: str) -> RefusedDelivery:
    """Return the refusal of a message whose staged body turned out to be wrong."""
    return RefusedDelivery(accepted.delivery, code, reason, accepted.event)


def _trusted(event: InputEvent | None) -> Origin | None:
    """Return who sent it, where the names at least are sound, since they go into the catalog as text."""
    if event is None or not all(
        name.isprintable() and 0 < len(name) <= NAME_BYTES_MAX for name in (event.source_id, event.site)
    ):
        return None
    return event
