"""Bytes that the store has lost or spoilt, brought back from the messages that brought them.

Kafka keeps a message for days after it was ingested, and each record's sightings say where its messages stood. What is
found there is taken only if it hashes to the blob's name.
"""

import asyncio

from batch.fsck.messages import Messages
from schemas.codec import decode
from schemas.digest import canonical_body, sha256_hex
from schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo
from schemas.reject import Rejected
from store.blobs import Blobs
from store.errors import BlobMissing
from store.inventory import Inventory, MessagePlace
from store.staging import STAGING_PREFIX

_EVENTS: dict[Kind, type[InputEvent]] = {Kind.CID: Cid, Kind.FRAME: Frame, Kind.CLIP: Clip, Kind.LDO: Ldo}


class Restore:
    """Finds another copy of a blob."""

    def __init__(self, inventory: Inventory, messages: Messages, blobs: Blobs) -> None:
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
        except Rejected:
            return None
        if event.body is not None or event.claim is None or not event.claim.startswith(STAGING_PREFIX):
            return event.body
        try:
            return await self._blobs.get(event.claim)
        except BlobMissing:
            return None
