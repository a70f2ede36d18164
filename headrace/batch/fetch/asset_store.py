"""The durable steps of a fetched body, in the order of every other: its blob, then its rows in one transaction."""

import asyncio
from dataclasses import dataclass

from headrace.batch.fetch.asset import Asset, batch_of
from headrace.batch.fetch.errors import STORING_ERRORS, of_storing
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.errors import BlobsCollectedError

_COLLECTED_TIMES_MAX = 5


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """Where bytes are, and whether the catalog had them before."""

    store_key: str
    duplicate: bool


class AssetStore:
    """Stores what was fetched. Every call may be repeated with the same offset and time."""

    def __init__(self, blobs: Blobs, catalog: Catalog) -> None:
        self._blobs = blobs
        self._catalog = catalog

    async def store(self, asset: Asset, body: bytes, *, offset: int, at_us: int) -> StoredAsset:
        """Make bytes and rows durable; the relay announces what is new.

        Raises:
            StoreFailed, CatalogFailed: nothing of it is in the catalog.
        """
        try:
            for _ in range(_COLLECTED_TIMES_MAX):
                try:
                    return await self._stored(asset, body, offset, at_us)
                except BlobsCollectedError as error:
                    last = error
                    await asyncio.sleep(1)
            raise of_storing(last)
        except STORING_ERRORS as error:
            raise of_storing(error) from None

    async def _stored(self, asset: Asset, body: bytes, offset: int, at_us: int) -> StoredAsset:
        generation = await self._catalog.generation()
        digest = bytes.fromhex(asset.digest)
        known = (await self._catalog.known_blobs([digest])).get(digest)
        if known is None:
            await self._blobs.put(asset.key, body, media_type=asset.media_type)
        batch = batch_of(asset, offset=offset, at_us=at_us, known=known, generation=generation)
        committed = await self._catalog.commit(batch)
        return StoredAsset(known.store_key if known else asset.key, duplicate=not committed.new_records)
