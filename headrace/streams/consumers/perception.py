"""Perception: detect what changed in each frame since the previous frame of its source.

Previous frames are in memory only. After a start, and after a partition was assigned, a source's first frame has no
previous one: its `previous_digest` is null, its score 0. A frame that cannot be decoded is skipped in the comparison.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from headrace.schemas.digest import result_id
from headrace.schemas.events import Ingested, PerceivedFrame
from headrace.schemas.topics import PartitionKey
from headrace.store.blobs.body import Body
from headrace.store.errors import BlobCorruptError, BlobMissingError
from headrace.streams.consumers.change_detection import WORKING_WIDTH_MAX, Change, Look, change, look
from headrace.streams.consumers.pictures import FrameBudgets, NotDecodableError, decode, decoding_bytes

NAME = "perception"

LOOKS_BYTES_MAX = 64 * 1024 * 1024  # 290 sources of 16:9


@dataclass(frozen=True, slots=True)
class PreviousFrame:
    """A source's last frame."""

    digest: str
    look: Look
    partition: PartitionKey


class PreviousFrames:
    """The last frame of each source, within a memory limit; the least recently used sources are dropped first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._seen: OrderedDict[tuple[str, str], PreviousFrame] = OrderedDict()

    def swap(self, source: tuple[str, str], now: PreviousFrame) -> PreviousFrame | None:
        """Store the frame as the source's last, and return the previous one."""
        before = self._drop(source)
        self._seen[source] = now
        self._held_bytes += now.look.grey.nbytes
        while self._held_bytes > self._bytes_max and len(self._seen) > 1:
            self._drop(next(iter(self._seen)))
        return before

    def forget(self, partitions: set[PartitionKey] | None) -> None:
        """Drop the sources of these partitions; None means all."""
        for source in [
            source for source, seen in self._seen.items() if partitions is None or seen.partition in partitions
        ]:
            self._drop(source)

    def _drop(self, source: tuple[str, str]) -> PreviousFrame | None:
        seen = self._seen.pop(source, None)
        if seen is not None:
            self._held_bytes -= seen.look.grey.nbytes
        return seen


class Perception:
    """Compares each frame with the previous one of its source; a source's frames must come in order."""

    def __init__(self) -> None:
        self._budgets = FrameBudgets()
        self._last = PreviousFrames(LOOKS_BYTES_MAX)

    def forget(self, partitions: set[PartitionKey] | None) -> None:
        """Drop the sources of revoked partitions; None means all."""
        self._last.forget(partitions)

    async def compute(self, event: Ingested, body: Body, partition: PartitionKey) -> PerceivedFrame:
        """Return what changed, or a result with an error if the frame is not decodable.

        Raises:
            StoreUnavailableError, StoreRefusedError: the store is unavailable or refuses.
        """
        try:
            now = await self._look(body)
        except (NotDecodableError, BlobCorruptError, BlobMissingError) as error:
            return perceived(event, None, previous_digest=None, error=str(error).splitlines()[0])
        before = self._last.swap((event.site, event.source_id), PreviousFrame(event.digest, now, partition))
        changed = await asyncio.to_thread(change, before.look, now) if before else None
        return perceived(event, changed, previous_digest=before.digest if before and changed else None)

    async def _look(self, body: Body) -> Look:
        async with self._budgets.body(body.size_bytes):
            data = await body.read()
            async with self._budgets.decoding.hold(decoding_bytes(data)):
                return await asyncio.to_thread(look_at, data)


def perceived(
    event: Ingested, changed: Change | None, *, previous_digest: str | None, error: str | None = None
) -> PerceivedFrame:
    """Return the result event."""
    return PerceivedFrame(
        event_id=str(result_id(NAME, UUID(event.record_id), UUID(event.event_id))),
        record_id=event.record_id,
        digest=event.digest,
        source_id=event.source_id,
        site=event.site,
        captured_at_us=event.captured_at_us,
        sequence=event.sequence,
        previous_digest=previous_digest,
        score=changed.score if changed else 0.0,
        regions=changed.regions if changed else (),
        error=error,
    )


def look_at(data: bytes) -> Look:
    """Decode an image for the comparison, no larger than that needs.

    Raises:
        NotDecodableError.
    """
    picture = decode(data, colour=False, width_min=WORKING_WIDTH_MAX)
    return look(picture.pixels, (picture.width, picture.height))
