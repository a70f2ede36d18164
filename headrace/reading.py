"""Records and bodies, as commands read them."""

from dataclasses import fields, is_dataclass
from typing import Any
from uuid import UUID

import orjson

from runtime.errors import HeadraceError
from runtime.settings import Settings
from schemas.digest import sha256_hex
from store.blobs import Blobs
from store.views import StoredRecord


def opened_blobs(settings: Settings) -> Blobs:
    """Return the blob store of the settings."""
    return Blobs.open(
        settings.store_url,
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        access_key=settings.store_access_key.get_secret_value(),
        secret_key=settings.store_secret_key.get_secret_value(),
    )


async def read_body(blobs: Blobs, record: StoredRecord) -> bytes:
    """Return a record's bytes, wherever they lie.

    Raises:
        HeadraceError: they are not there, or are not the bytes that were ingested.
    """
    if record.store_key is None:
        raise HeadraceError(
            "blob_missing",
            f"the catalog does not know where the bytes of {record.digest} are",
            hint="restore the catalog's table `blobs` from a backup",
        )
    length = None if record.store_offset is None else record.size_bytes
    body = await blobs.get(record.store_key, offset=record.store_offset, length=length)
    if sha256_hex(body) != record.digest:
        raise HeadraceError(
            "blob_corrupt",
            f"the stored bytes do not hash to {record.digest}",
            where=record.store_key,
            hint="restore the object from a replica or backup",
        )
    return body


def as_json(value: Any) -> Any:
    """Return frozen values as JSON knows them: ids and enumerations as text, attributes as the object they are."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
        if "attributes" in shown:
            shown["attributes"] = orjson.loads(shown["attributes"])
        return shown
    match value:
        case UUID():
            return str(value)
        case dict():
            return {str(name): as_json(item) for name, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case _:
            return value
