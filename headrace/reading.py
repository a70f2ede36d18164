"""Records and bodies, as commands read them."""

from dataclasses import fields, is_dataclass
from typing import Any
from uuid import UUID

import orjson

from headrace.runtime.errors import HeadraceError
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.verified_read import read_placed
from headrace.store.catalog.views import StoredRecord


async def read_body(blobs: Blobs, record: StoredRecord) -> bytes:
    """Return a record's bytes, wherever they lie.

    Raises:
        HeadraceError: they are archived, are not there, or are not the bytes that were ingested.
    """
    if record.store_key is None:
        raise HeadraceError(
            "blob_missing",
            f"the catalog does not know where the bytes of {record.digest} are",
            hint="restore the catalog's table `blobs` from a backup",
        )
    return await read_placed(blobs, record)


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
