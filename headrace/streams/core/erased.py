"""What a tombstone keeps out: a message with erased bytes becomes a dead letter that does not hold them."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeAlias

from headrace.schemas.catalog_rows import Tombstone
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Clip, Frame, Origin
from headrace.schemas.reject import RejectCode
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import DecodedBatch, RejectedDelivery, reject

ErasableDigests: TypeAlias = Mapping[tuple[str, int, int], AbstractSet[bytes]]
"""The digests of each message of a batch, by its topic, partition and offset."""

REASON = "its bytes were erased, and are not stored again"


def erasable_digests(batch: DecodedBatch, *, with_values: bool) -> ErasableDigests:
    """Return the digests by which tombstones find the messages of a batch, by the position of each.

    They are those of the bodies, and those of the values of rejected messages; with `with_values` of accepted ones too:
    a dead letter may have been erased whose bytes a newer worker accepts, also one that was being redriven.
    """
    digests = {delivery.message.position: {bytes.fromhex(delivery.digest)} for delivery in batch.accepted}
    hashed = [rejection.message for rejection in batch.rejected]
    if with_values:
        hashed += [delivery.message for delivery in batch.accepted]
    for message in hashed:
        of_message = digests.setdefault(message.position, set())
        if message.value is not None:
            of_message.add(bytes.fromhex(sha256_hex(message.value)))
    return digests


def without_erased(batch: DecodedBatch, digests: ErasableDigests, tombstones: Iterable[Tombstone]) -> DecodedBatch:
    """Return the batch with each message rejected as erased that one of the tombstones matches."""
    by_digest: dict[bytes, list[Tombstone]] = {}
    for tombstone in tombstones:
        by_digest.setdefault(tombstone.digest, []).append(tombstone)
    if not by_digest:
        return batch

    def is_erased(message: ConsumedMessage, origin: Origin | None) -> bool:
        names = ("", "") if origin is None else (origin.site, origin.source_id)
        of_message = digests[message.position]
        return any(tombstone.keeps_out(*names) for digest in of_message for tombstone in by_digest.get(digest, ()))

    rejected = tuple(
        replace(rejection, code=RejectCode.ERASED, reason=REASON, origin=_names_of(rejection.origin))
        if is_erased(rejection.message, rejection.origin)
        else rejection
        for rejection in batch.rejected
    )
    later = [
        reject(delivery, RejectCode.ERASED, REASON)
        for delivery in batch.accepted
        if is_erased(delivery.message, delivery.event)
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


def _names_of(origin: Origin | None) -> Origin | None:
    """Return an origin without the event, whose claim was never checked."""
    if origin is None:
        return None
    return Origin(
        source_id=origin.source_id, site=origin.site, captured_at_us=origin.captured_at_us, sequence=origin.sequence
    )
