"""Converts a fetched body to the rows of its record. Pure.

A fetched body is a frame or a clip like any other, with the digest, record id, blob key and announcement that it would
have if a camera had published it. Its sighting names FETCHED instead of a topic, and a random offset, which is drawn
after the fetch. So a repeated transaction leaves one sighting, and a later fetch another one.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import orjson

from headrace.batch.fetch.errors import ArgumentRefusedError, MediaRefusedError
from headrace.runtime.pictures import inspect_picture
from headrace.schemas.catalog_rows import BlobLocation, BlobRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind, TimeFrom
from headrace.schemas.media_probe import VideoHeader, probe_of
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import check_header, check_name, is_plausible_time

FETCHED = "fetched.urls"
OFFSET_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetOrigin:
    """The data set, license and site of a URL."""

    source: str = "urls"
    license: str | None = None
    site: str = "web"

    def check(self) -> None:
        """Raise ArgumentRefusedError if one of them is not a valid name."""
        try:
            check_name(self.source, "source")
            check_name(self.site, "site")
            if self.license is not None:
                check_name(self.license, "license")
        except RejectedError as rejected:
            raise ArgumentRefusedError(rejected.reason) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A body that passed validation. `url` is redacted; `captured_at_us` is that of its EXIF, `details` attributes."""

    kind: Kind
    digest: str
    size_bytes: int
    media_type: str
    url: str
    origin: AssetOrigin
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    captured_at_us: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def record_id(self) -> UUID:
        """The id of its record, which is the same for every fetch of these bytes."""
        return record_id(self.kind, self.digest)

    @property
    def key(self) -> str:
        """The key of its object."""
        return blob_key(self.digest)


def asset_of(body: bytes, url: str, origin: AssetOrigin, where: str) -> Asset:
    """Return the asset of a body, whose own bytes determine its media type; an image is decoded, which takes long.

    Raises:
        MediaRefusedError: it is not an image or a video of a format that is taken, is damaged, or exceeds a limit.
    """
    asset = partial(Asset, digest=sha256_hex(body), size_bytes=len(body), url=url, origin=origin)
    try:
        header = probe_of(body).header()
        check_header(header, len(body))
        if isinstance(header, VideoHeader):
            details: dict[str, Any] = {"video": header.details}
            duration_us = header.duration_us or 0
            return asset(kind=Kind.CLIP, media_type=header.media_type, duration_us=duration_us, details=details)
        picture = inspect_picture(body, header)
    except RejectedError as rejected:
        raise MediaRefusedError(rejected.reason, where=where) from None
    return asset(
        kind=Kind.FRAME,
        media_type=header.media_type,
        width=header.width,
        height=header.height,
        captured_at_us=picture.captured_at_us,
        details=({"exif": picture.exif} if picture.exif else {}) | picture.details,
    )


def batch_of(asset: Asset, *, offset: int, at_us: int, known: BlobLocation | None, collection_epoch: int) -> RowBatch:
    """Return the rows of an asset that was fetched at a time; `known` is where its bytes are, if they are stored."""
    blob = BlobRow(
        digest=bytes.fromhex(asset.digest),
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        store_key=asset.key,
    )
    captured_at_us, time_from = asset.captured_at_us, TimeFrom.EXIF
    if not is_plausible_time(captured_at_us, at_us):
        captured_at_us, time_from = at_us, TimeFrom.RECEIVED
    attributes = asset.details | {"url": asset.url, "captured_at_from": time_from}
    if asset.origin.license is not None:
        attributes["license"] = asset.origin.license
    record = RecordRow(
        record_id=asset.record_id,
        kind=asset.kind,
        digest=blob.digest,
        site=asset.origin.site,
        source_id=asset.origin.source,
        captured_at_us=captured_at_us,
        sequence=at_us,
        media_type=asset.media_type,
        size_bytes=asset.size_bytes,
        width=asset.width,
        height=asset.height,
        duration_us=asset.duration_us,
        attributes=orjson.dumps(attributes),
    )
    sighting = SightingRow(
        topic=FETCHED,
        partition=0,
        offset=offset,
        record_id=record.record_id,
        site=record.site,
        source_id=record.source_id,
        captured_at_us=captured_at_us,
        sequence=at_us,
    )
    return RowBatch(
        blobs=[] if known else [blob],
        records=[record],
        sightings=[sighting],
        dead_letters=[],
        collection_epoch=collection_epoch,
    )
