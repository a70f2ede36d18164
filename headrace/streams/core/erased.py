"""What a tombstone keeps out: a message with erased bytes becomes a dead letter that does not hold them."""

from collections.abc import Iterable
from dataclasses import replace

from headrace.schemas.catalog_rows import Tombstone
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Clip, Frame, Origin
from headrace.schemas.reject import RejectCode
from headrace.streams.core.examine import DecodedBatch, RejectedDelivery, reject

REASON = "its bytes were erased, and are not stored again"


def digests_of(batch: DecodedBatch) -> list[bytes]:
    """Return the digests by which tombstones find the messages of a batch, sorted.

    They are those of the bodies, and those of the values of rejected messages.
    """
    bodies = {bytes.fromhex(delivery.digest) for delivery in batch.accepted}
    return sorted(bodies | {digest for rejection in batch.rejected if (digest := _value_digest(rejection))})


def without_erased(batch: DecodedBatch, tombstones: Iterable[Tombstone]) -> DecodedBatch:
    """Return the batch with each message rejected as erased that one of the tombstones matches."""
    by_digest: dict[bytes, list[Tombstone]] = {}
    for tombstone in tombstones:
        by_digest.setdefault(tombstone.digest, []).append(tombstone)
    if not by_digest:
        return batch

    def is_erased(digest: bytes | None, origin: Origin | None) -> bool:
        names = ("", "") if origin is None else (origin.site, origin.source_id)
        return digest is not None and any(tombstone.keeps_out(*names) for tombstone in by_digest.get(digest, ()))

    rejected = tuple(
        replace(rejection, code=RejectCode.ERASED, reason=REASON, origin=_names_of(rejection.origin))
        if is_erased(_value_digest(rejection), rejection.origin)
        else rejection
        for rejection in batch.rejected
    )
    later = [
        reject(delivery, RejectCode.ERASED, REASON)
        for delivery in batch.accepted
        if is_erased(bytes.fromhex(delivery.digest), delivery.event)
    ]
    return replace(batch, rejected=rejected).with_rejected(later)


def erased_claims(batch: DecodedBatch) -> list[str]:
    """Return the keys of the staged bodies that erased messages of a batch name."""
    origins = [rejection.origin for rejection in batch.rejected if is_out(rejection)]
    return [
        origin.claim for origin in origins if isinstance(origin, Frame | Clip) and origin.body is None and origin.claim
    ]


def is_out(rejection: RejectedDelivery) -> bool:
    """Return whether a message is rejected because its bytes were erased."""
    return rejection.code is RejectCode.ERASED


def _value_digest(rejection: RejectedDelivery) -> bytes | None:
    value = rejection.message.value
    return None if value is None else bytes.fromhex(sha256_hex(value))


def _names_of(origin: Origin | None) -> Origin | None:
    """Return an origin without the event, whose claim was never checked."""
    if origin is None:
        return None
    return Origin(
        source_id=origin.source_id, site=origin.site, captured_at_us=origin.captured_at_us, sequence=origin.sequence
    )
