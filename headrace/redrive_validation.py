"""Today's checks, as a redrive asks them: the worker's own, which `batch` does not know."""

from headrace.batch.redrive import Claimed, ValidationResult, Validator
from headrace.batch.republish import original_headers
from headrace.schemas.digest import blob_key
from headrace.schemas.events import Clip, Frame, Kind
from headrace.schemas.topics import input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.rows import DeadLetterRow
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import RefusedDelivery, examine

_KINDS = {input_topic(kind).name: kind for kind in Kind}


def judge(now_us: int) -> Validator:
    """Return the judgement of the worker's checks as of a time; it never raises for what a message can hold."""

    def verdict(letter: DeadLetterRow) -> ValidationResult:
        kind = _kind(letter.topic)
        if kind is None:
            return ValidationResult("unknown_topic")
        found = examine(kind, _delivery(letter), now_us)
        if isinstance(found, RefusedDelivery):
            return ValidationResult(found.code.value)
        event = found.event
        if isinstance(event, Frame | Clip) and found.body is None and event.claim is not None:
            return ValidationResult(claim=Claimed(event.claim, blob_key(found.digest), found.size_bytes))
        return ValidationResult()

    return verdict


class StoredSizes:
    """The blob store, as a redrive asks it for claimed bodies."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""
        seen = await self._blobs.stat(key)
        return None if seen is None else seen.size_bytes


def _kind(topic: str) -> Kind | None:
    # A mirrored topic has its site's name before ours.
    return next((kind for name, kind in _KINDS.items() if topic == name or topic.endswith(f".{name}")), None)


def _delivery(letter: DeadLetterRow) -> ConsumedMessage:
    return ConsumedMessage(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp_us=letter.message_timestamp_us,
        key=letter.key,
        value=letter.value,
        headers=original_headers(letter),
    )
