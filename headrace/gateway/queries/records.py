"""Records of the catalog in responses."""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from headrace.schemas.headers import rfc3339
from headrace.store.catalog.queries import SIGHTINGS_MAX
from headrace.store.catalog.views import RecordDetail, Sighting, StoredRecord


class RecordShown(BaseModel):
    """One distinct ingested item; times are UTC."""

    id: str = Field(description="The record's id, or an LDO's public id.")
    record_id: str = Field(examples=["0b5f4d0e-2f0a-5b0e-9a58-1f6c1f6f2d11"])
    kind: str = Field(examples=["frame"])
    digest: str = Field(description="SHA-256 of the bytes at `/api/v1/blobs/{digest}`.")
    site: str
    source_id: str
    captured_at: str = Field(examples=["2026-01-31T12:00:00.250000Z"])
    ingested_at: str
    sequence: int
    media_type: str = Field(examples=["image/jpeg"])
    size_bytes: int
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    ldo_id: str | None = None
    code: str | None = None
    about: str | None = None
    archived_at: str | None = Field(None, description="When the bytes were archived; null if they can be read.")


class RecordPage(BaseModel):
    """A page of records, newest first."""

    records: list[RecordShown]
    cursor: str | None = Field(description="The cursor of the next page; null on the last one.")


class SightingShown(BaseModel):
    """One delivery of a record, with the position of its message."""

    site: str
    source_id: str
    captured_at: str
    sequence: int
    seen_at: str
    topic: str
    partition: int
    offset: int
    index: int


class FetchState(BaseModel):
    """Whether the bytes of a record are here, or are brought next."""

    record_id: str
    state: str = Field(examples=["requested"], description="`requested`, or `here`.")


class RecordWhole(RecordShown):
    """A record with its attributes and sightings."""

    at_site: str | None = Field(None, description="The site that has the bytes; null once they are here.")
    attributes: dict[str, Any]
    sightings: list[SightingShown] = Field(description=f"Oldest first; at most {SIGHTINGS_MAX}.")


def page_json(records: Sequence[StoredRecord], cursor: str | None) -> bytes:
    """Return a page as JSON."""
    return orjson.dumps({"records": [_fields(record) for record in records], "cursor": cursor})


def record_json(detail: RecordDetail, *, is_at_site: bool = False) -> bytes:
    """Return a record with its sightings as JSON; `is_at_site` says that its bytes are not here yet."""
    record = detail.record
    sightings = [_sighting_fields(sighting) for sighting in detail.sightings]
    more = {"at_site": record.site if is_at_site else None, "attributes": orjson.loads(record.attributes)}
    return orjson.dumps(_fields(record) | more | {"sightings": sightings})


def _fields(record: StoredRecord) -> dict[str, Any]:
    return {
        "id": record.public_id,
        "record_id": str(record.record_id),
        "kind": record.kind,
        "digest": record.digest,
        "site": record.site,
        "source_id": record.source_id,
        "captured_at": rfc3339(record.captured_at_us),
        "ingested_at": rfc3339(record.ingested_at_us),
        "sequence": record.sequence,
        "media_type": record.media_type,
        "size_bytes": record.size_bytes,
        "width": record.width,
        "height": record.height,
        "duration_us": record.duration_us,
        "ldo_id": record.ldo_id,
        "code": record.code,
        "about": record.about,
        "archived_at": None if record.archived_at_us is None else rfc3339(record.archived_at_us),
    }


def _sighting_fields(sighting: Sighting) -> dict[str, Any]:
    return {
        "site": sighting.site,
        "source_id": sighting.source_id,
        "captured_at": rfc3339(sighting.captured_at_us),
        "sequence": sighting.sequence,
        "seen_at": rfc3339(sighting.seen_at_us),
        "topic": sighting.topic,
        "partition": sighting.partition,
        "offset": sighting.offset,
        "index": sighting.index,
    }
