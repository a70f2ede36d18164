"""Preprocessing: size, sharpness, brightness, perceptual hash and a thumbnail of every frame."""

import asyncio
from uuid import UUID

from headrace.schemas.digest import derived_key, result_id, sha256_hex
from headrace.schemas.events import Ingested, PreprocessedFrame
from headrace.schemas.topics import PartitionKey
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.store.errors import BlobCorruptError, BlobErasedError, BlobMissingError
from headrace.streams.consumers.image_quality import FrameQuality, measure
from headrace.streams.consumers.pictures import FrameBudgets, NotDecodableError, decoding_bytes

NAME = "preprocessing"


class Preprocessing:
    """Measures frames independently of each other."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._budgets = FrameBudgets()

    async def compute(self, event: Ingested, body: Body, _partition: PartitionKey) -> PreprocessedFrame:
        """Return the measurements of a frame, or a result with an error if it is not decodable.

        Raises:
            BlobErasedError: the frame was erased. StoreUnavailableError, StoreRefusedError: the store is unavailable or
                refuses.
        """
        try:
            quality = await self._measured(body)
        except (NotDecodableError, BlobCorruptError, BlobMissingError) as error:
            return preprocessed(event, None, thumbnail_digest="", error=str(error).splitlines()[0])
        digest = sha256_hex(quality.thumbnail.jpeg)
        key = derived_key(UUID(event.record_id), digest)
        await self._blobs.put(key, quality.thumbnail.jpeg, media_type="image/jpeg")
        # An erasure deletes the bytes, then what is derived from them: what it did not see is deleted here.
        if not await body.is_there():
            await self._blobs.delete(key)
            raise BlobErasedError(event.digest, where=self._blobs.where)
        return preprocessed(event, quality, thumbnail_digest=digest)

    async def _measured(self, body: Body) -> FrameQuality:
        async with self._budgets.body(body.size_bytes):
            data = await body.read()
            async with self._budgets.decoding.hold(decoding_bytes(data)):
                return await asyncio.to_thread(measure, data)


def preprocessed(
    event: Ingested, quality: FrameQuality | None, *, thumbnail_digest: str, error: str | None = None
) -> PreprocessedFrame:
    """Return the result event; without a quality it has the announced size and the error."""
    return PreprocessedFrame(
        event_id=str(result_id(NAME, UUID(event.record_id), UUID(event.event_id))),
        record_id=event.record_id,
        digest=event.digest,
        source_id=event.source_id,
        site=event.site,
        captured_at_us=event.captured_at_us,
        sequence=event.sequence,
        width=quality.width if quality else event.width or 0,
        height=quality.height if quality else event.height or 0,
        sharpness=quality.sharpness if quality else 0.0,
        brightness=quality.brightness if quality else 0.0,
        dark_share=quality.dark_share if quality else 0.0,
        bright_share=quality.bright_share if quality else 0.0,
        perceptual_hash=quality.perceptual_hash if quality else "0" * 16,
        thumbnail_sha256=thumbnail_digest,
        thumbnail_key=derived_key(UUID(event.record_id), thumbnail_digest) if thumbnail_digest else "",
        thumbnail_width=quality.thumbnail.width if quality else 0,
        thumbnail_height=quality.thumbnail.height if quality else 0,
        error=error,
    )
