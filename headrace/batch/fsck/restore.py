"""Bytes that the store has lost or spoilt, brought back from the messages that brought them.

Kafka keeps a message for days after it was ingested, and each record's sightings say where its messages stood. What is
found there is taken only if it hashes to the blob's name.
"""

import asyncio

from headrace.batch.fsck.messages import Messages
from headrace.schemas.codec import decode
from headrace.schemas.digest import canonical_body, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo
from headrace.schemas.reject import RejectedError
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import STAGING_PREFIX
from headrace.store.catalog.fsck_queries import FsckQueries, MessagePlace
from headrace.store.errors import BlobMissingError

_EVENTS: dict[Kind, type[InputEvent]] = {Kind.CID: Cid, Kind.FRAME: Frame, Kind.CLIP: Clip, Kind.LDO: Ldo}


class Restore:
    """Finds another copy of a blob."""

    def __init__(self, inventory: FsckQueries, messages: Messages, blobs: Blobs) -> None:
        self._inventory = inventory
        self._messages = messages
        self._blobs = blobs

    async def body(self, digest: str) -> bytes | None:
        """Return the bytes with this digest from a message that is still there, or None."""
        for place in await self._inventory.places(bytes.fromhex(digest)):
            body = await self._body_at(place)
            if body is not None and await asyncio.to_thread(sha256_hex, body) == digest:
                return body
        return None

    async def _body_at(self, place: MessagePlace) -> bytes | None:
        value = await asyncio.to_thread(self._messages.at, place.topic, place.partition, place.offset)
        try:
            event = decode(value, _EVENTS[place.kind])
            if isinstance(event, Cid | Ldo):
                return canonical_body(event)
        except RejectedError:
            return None
        if event.body is not None or event.claim is None or not event.claim.startswith(STAGING_PREFIX):
            return event.body
        try:
            return await self._blobs.get(event.claim)
        except BlobMissingError:
            return None
