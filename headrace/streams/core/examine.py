"""Decide whether a message can be ingested: decode it and validate its event, which also hashes the body."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.schemas.codec import decode
from headrace.schemas.events import Clip, Frame, InputEvent, Kind, Origin
from headrace.schemas.headers import REPLAY, traceparent_of
from headrace.schemas.limits import NAME_BYTES_MAX
from headrace.schemas.mirrored import check_site, origin_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.topics import PartitionKey, site_of_topic
from headrace.schemas.validate import INPUT_EVENTS, validate
from headrace.streams.core.delivery import ConsumedMessage, UnreadableBytes


@dataclass(frozen=True, slots=True)
class AcceptedDelivery:
    """A message that can be ingested. `body` is what is stored, and None while it is still staged."""

    message: ConsumedMessage
    event: InputEvent
    digest: str
    media_type: str
    size_bytes: int
    body: bytes | None
    traceparent: str | None

    @property
    def claim(self) -> str | None:
        """The key of the staged body; None where the message carries its body."""
        return self.event.claim if isinstance(self.event, Frame | Clip) and self.body is None else None


@dataclass(frozen=True, slots=True)
class RejectedDelivery:
    """A message that can never be ingested. `origin` is None where even that could not be read."""

    message: ConsumedMessage
    code: RejectCode
    reason: str
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """The messages of a batch, and the accepted and the rejected of them, each in the order of the messages.

    `progress` is the offset after the last message of each (topic, partition), as Kafka delivered them.
    """

    kind: Kind
    messages: tuple[ConsumedMessage, ...]
    accepted: tuple[AcceptedDelivery, ...]
    rejected: tuple[RejectedDelivery, ...]
    progress: Mapping[PartitionKey, int] = field(default_factory=dict)

    def with_rejected(self, rejections: Iterable[RejectedDelivery]) -> "DecodedBatch":
        """Return the batch with these of its accepted messages rejected."""
        later = {rejection.message.position: rejection for rejection in rejections}
        if not later:
            return self
        index_by_position = {message.position: index for index, message in enumerate(self.messages)}
        rejected = sorted(
            (*self.rejected, *later.values()), key=lambda rejection: index_by_position[rejection.message.position]
        )
        accepted = tuple(delivery for delivery in self.accepted if delivery.message.position not in later)
        return replace(self, accepted=accepted, rejected=tuple(rejected))


def _ignore() -> None:
    return


def examine_batch(
    kind: Kind,
    messages: Sequence[ConsumedMessage],
    *,
    decoded: Callable[[], None] = _ignore,
    hashed: Callable[[], None] = _ignore,
) -> DecodedBatch:
    """Examine the messages of a batch; see `examine`."""
    accepted: list[AcceptedDelivery] = []
    rejected: list[RejectedDelivery] = []
    for message in messages:
        outcome = examine(kind, message, decoded=decoded, hashed=hashed)
        if isinstance(outcome, AcceptedDelivery):
            accepted.append(outcome)
        else:
            rejected.append(outcome)
    return DecodedBatch(kind, tuple(messages), tuple(accepted), tuple(rejected))


def examine(
    kind: Kind,
    message: ConsumedMessage,
    *,
    decoded: Callable[[], None] = _ignore,
    hashed: Callable[[], None] = _ignore,
) -> AcceptedDelivery | RejectedDelivery:
    """Decode one message and validate its event; never raises for anything that a message can hold.

    Validation computes the digest of an inline body. A staged body is not read here: its digest is the declared one,
    which `headrace/store/blobs/staging.py` compares with the bytes when it promotes them. `decoded` is called once the
    message is decoded, `hashed` once it is accepted.
    """
    if isinstance(message.value, UnreadableBytes):
        return RejectedDelivery(message, message.value.code, message.value.reason, None)
    if any(name == REPLAY for name, _ in message.headers):
        return RejectedDelivery(message, RejectCode.REPLAYED, "a replay published it: it was ingested before", None)
    event: InputEvent | None = None
    try:
        event = decode(message.value, INPUT_EVENTS[kind])
        decoded()
        check_site(message.topic, event.site)
        origin_of(message.topic, message.headers)
        valid = validate(event, message.timestamp_us)
        traceparent = traceparent_of(message.headers)
    except RejectedError as rejected:
        return RejectedDelivery(message, rejected.code, rejected.reason, _trusted(event, message.topic))
    except MemoryError:
        raise  # the process is at fault, not the message
    except Exception as error:  # noqa: BLE001 - whatever a message causes must not stop the messages after it
        return RejectedDelivery(message, RejectCode.UNDECODABLE, _unforeseen(error), _trusted(event, message.topic))
    hashed()
    return AcceptedDelivery(
        message,
        event,
        valid.digest,
        valid.media_type,
        valid.size_bytes,
        valid.body,
        traceparent,
    )


def reject(accepted: AcceptedDelivery, code: RejectCode, reason: str) -> RejectedDelivery:
    """Reject an accepted message: its staged body is not what it declares, or the catalog cannot hold its values."""
    return RejectedDelivery(accepted.message, code, reason, accepted.event)


def _unforeseen(error: Exception) -> str:
    # The text of the exception may hold anything, also the message; its type and place do not.
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" in {at.tb_frame.f_code.co_name}" if at is not None else ""
    return f"checking the message raised {type(error).__name__}{place}"


def _trusted(event: InputEvent | None, topic: str) -> Origin | None:
    """Return the message's origin if its names are valid, because they go into the catalog as text.

    Nobody speaks for another site: what a mirrored topic brings is of its site.
    """
    if event is None or not all(
        name.isprintable() and 0 < len(name) <= NAME_BYTES_MAX for name in (event.source_id, event.site)
    ):
        return None
    site = site_of_topic(topic)
    return event if site in {None, event.site} else replace(event, site=site or "")
