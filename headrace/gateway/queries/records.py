"""Records, as callers read them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from pydantic import BaseModel, Field

from headrace.gateway.auth.principal import Principal
from headrace.schemas.headers import rfc3339
from headrace.store.catalog.queries import SIGHTINGS_MAX
from headrace.store.catalog.views import RecordDetail, Sighting, StoredRecord


class RecordShown(BaseModel):
    """One distinct thing that was ingested; the times are UTC."""

    id: str = Field(description="The id to show: a record's id, or an LDO's public id.")
    record_id: str = Field(examples=["0b5f4d0e-2f0a-5b0e-9a58-1f6c1f6f2d11"])
    kind: str = Field(examples=["frame"])
    digest: str = Field(description="SHA-256 of the bytes; `/api/v1/blobs/{digest}` has them.")
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
    archived_at: str | None = Field(
        None, description="Since when the bytes are in the archive; null where they can be read."
    )


class RecordPage(BaseModel):
    """A page of records, newest first."""

    records: list[RecordShown]
    cursor: str | None = Field(description="For the next page; null where there is none.")


class SightingShown(BaseModel):
    """One delivery of a record: from whom, when, and where its message stands."""

    site: str
    source_id: str
    captured_at: str
    sequence: int
    seen_at: str
    topic: str
    partition: int
    offset: int
    index: int


class RecordWhole(RecordShown):
    """A record with what its source said of it, and its deliveries."""

    attributes: dict[str, Any]
    sightings: list[SightingShown] = Field(description=f"Oldest first, at most {SIGHTINGS_MAX}.")


def page_of(records: Sequence[StoredRecord], cursor: str | None) -> bytes:
    """Return a page as JSON."""
    return orjson.dumps({"records": [_shown(one) for one in records], "cursor": cursor})


def whole(detail: RecordDetail, principal: Principal) -> bytes:
    """Return a record with its sightings as JSON, as far as the caller reaches."""
    record = detail.record
    if not principal.can_access(record.site, record.source_id):
        record = _as_seen(record, detail.sightings[0])
    sightings = [_sighting(one) for one in detail.sightings]
    return orjson.dumps(_shown(record) | {"attributes": orjson.loads(record.attributes), "sightings": sightings})


def _as_seen(record: StoredRecord, first: Sighting) -> StoredRecord:
    """Tell of bytes that another source brought first only what the caller's own source said of them."""
    return replace(
        record,
        site=first.site,
        source_id=first.source_id,
        captured_at_us=first.captured_at_us,
        sequence=first.sequence,
        ingested_at_us=max(record.ingested_at_us, first.seen_at_us),
        about=None,
        attributes="{}",
    )


def _shown(one: StoredRecord) -> dict[str, Any]:
    return {
        "id": one.public_id,
        "record_id": str(one.record_id),
        "kind": one.kind,
        "digest": one.digest,
        "site": one.site,
        "source_id": one.source_id,
        "captured_at": rfc3339(one.captured_at_us),
        "ingested_at": rfc3339(one.ingested_at_us),
        "sequence": one.sequence,
        "media_type": one.media_type,
        "size_bytes": one.size_bytes,
        "width": one.width,
        "height": one.height,
        "duration_us": one.duration_us,
        "ldo_id": one.ldo_id,
        "code": one.code,
        "about": one.about,
        "archived_at": None if one.archived_at_us is None else rfc3339(one.archived_at_us),
    }


def _sighting(one: Sighting) -> dict[str, Any]:
    return {
        "site": one.site,
        "source_id": one.source_id,
        "captured_at": rfc3339(one.captured_at_us),
        "sequence": one.sequence,
        "seen_at": rfc3339(one.seen_at_us),
        "topic": one.topic,
        "partition": one.partition,
        "offset": one.offset,
        "index": one.index,
    }
