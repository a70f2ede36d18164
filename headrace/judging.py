"""Today's checks, as a redrive asks them: the worker's own, which `batch` does not know."""

from batch.redrive import Claimed, Judge, Verdict
from batch.republish import original_headers
from schemas.digest import blob_key
from schemas.events import Clip, Frame, Kind
from schemas.topics import input_topic
from store.blobs import Blobs
from store.rows import DeadLetterRow
from streams.core.delivery import Delivery
from streams.core.examine import Refused, examine

_KINDS = {input_topic(kind).name: kind for kind in Kind}


def judge(now_us: int) -> Judge:
    """Return the judgement of the worker's checks as of a time; it never raises for what a message can hold."""

    def verdict(letter: DeadLetterRow) -> Verdict:
        kind = _kind(letter.topic)
        if kind is None:
            return Verdict("unknown_topic")
        found = examine(kind, _delivery(letter), now_us)
        if isinstance(found, Refused):
            return Verdict(found.code.value)
        event = found.event
        if isinstance(event, Frame | Clip) and found.body is None and event.claim is not None:
            return Verdict(claim=Claimed(event.claim, blob_key(found.digest), found.size_bytes))
        return Verdict()

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


def _delivery(letter: DeadLetterRow) -> Delivery:
    return Delivery(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp_us=letter.message_timestamp_us,
        key=letter.key,
        value=letter.value,
        headers=original_headers(letter),
    )
