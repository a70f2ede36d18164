"""Converts a fetched body to the rows of its record. Pure.

A fetched body is a frame or a clip like any other, with the digest, record id, blob key and announcement that it would
have if a camera had published it. Its sighting names FETCHED instead of a topic, and a random offset, which is drawn
after the fetch. So a repeated transaction leaves one sighting, and a later fetch another one.
"""

from dataclasses import dataclass
from uuid import UUID

import orjson

from headrace.batch.fetch.errors import ArgumentRefusedError, MediaRefusedError
from headrace.schemas.catalog_rows import BlobLocation, BlobRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.schemas.media_probe import VideoHeader
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import check_name, media_header

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
    """A body that passed validation. `url` is redacted."""

    kind: Kind
    digest: str
    size_bytes: int
    media_type: str
    url: str
    origin: AssetOrigin
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None

    @property
    def record_id(self) -> UUID:
        """The id of its record, which is the same for every fetch of these bytes."""
        return record_id(self.kind, self.digest)

    @property
    def key(self) -> str:
        """The key of its object."""
        return blob_key(self.digest)


def asset_of(body: bytes, url: str, origin: AssetOrigin, where: str) -> Asset:
    """Return the asset of a body, whose own header determines its media type.

    Raises:
        MediaRefusedError: it is not a JPEG, PNG, WebP or MP4, or exceeds a limit.
    """
    try:
        header = media_header(body, len(body))
    except RejectedError as rejected:
        raise MediaRefusedError(rejected.reason, where=where) from None
    is_video = isinstance(header, VideoHeader)
    return Asset(
        kind=Kind.CLIP if is_video else Kind.FRAME,
        digest=sha256_hex(body),
        size_bytes=len(body),
        media_type=header.media_type,
        url=url,
        origin=origin,
        width=None if is_video else header.width,
        height=None if is_video else header.height,
        duration_us=(header.duration_us or 0) if isinstance(header, VideoHeader) else None,
    )


def batch_of(asset: Asset, *, offset: int, at_us: int, known: BlobLocation | None, collection_epoch: int) -> RowBatch:
    """Return the rows of an asset that was fetched at a time; `known` is where its bytes are, if they are stored."""
    blob = BlobRow(
        digest=bytes.fromhex(asset.digest),
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        store_key=asset.key,
    )
    attributes = {"url": asset.url} | ({"license": asset.origin.license} if asset.origin.license is not None else {})
    record = RecordRow(
        record_id=asset.record_id,
        kind=asset.kind,
        digest=blob.digest,
        site=asset.origin.site,
        source_id=asset.origin.source,
        captured_at_us=at_us,
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
        captured_at_us=at_us,
        sequence=at_us,
    )
    return RowBatch(
        blobs=[] if known else [blob],
        records=[record],
        sightings=[sighting],
        dead_letters=[],
        collection_epoch=collection_epoch,
    )
