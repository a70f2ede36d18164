"""From a body to the rows that say it is ingested. No I/O, no clock.

What is fetched is a frame or a clip like any other: the same digest, record id, blob key and announcement as if a
camera had published it. Its sighting stands where a message would: in FETCHED, which is no topic of Kafka, at an offset
drawn at random once the bytes are there. So a repeated transaction leaves one sighting, and a later fetch another.
"""

from dataclasses import dataclass
from uuid import UUID

import orjson

from headrace.batch.fetch.errors import ArgumentRefusedError, MediaRefusedError
from headrace.schemas.catalog_rows import BlobPlace, BlobRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.schemas.media_probe import VideoHeader
from headrace.schemas.reject import RejectedError
from headrace.schemas.validate import check_name, media_header

FETCHED = "fetched.urls"
OFFSET_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetOrigin:
    """What is said about a URL: the data set it belongs to, and the license under which its bytes may be used."""

    source: str = "urls"
    license: str | None = None
    site: str = "web"

    def check(self) -> None:
        """Raise ArgumentRefused unless each of them is a name."""
        try:
            check_name(self.source, "source")
            check_name(self.site, "site")
            if self.license is not None:
                check_name(self.license, "license")
        except RejectedError as rejected:
            raise ArgumentRefusedError(rejected.reason) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Bytes that may be ingested. `url` is as it is shown."""

    kind: Kind
    digest: str
    size_bytes: int
    media_type: str
    url: str
    about: AssetOrigin
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None

    @property
    def record_id(self) -> UUID:
        """The id of its record, which every fetch of the same bytes has."""
        return record_id(self.kind, self.digest)

    @property
    def key(self) -> str:
        """Where its bytes are put."""
        return blob_key(self.digest)


def asset_of(body: bytes, url: str, about: AssetOrigin, where: str) -> Asset:
    """Return what bytes are, as their header says; what the answer called them does not matter.

    Raises:
        MediaRefused: they are no JPEG, PNG, WebP or MP4, or go beyond a limit.
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
        about=about,
        width=None if is_video else header.width,
        height=None if is_video else header.height,
        duration_us=(header.duration_us or 0) if isinstance(header, VideoHeader) else None,
    )


def batch_of(asset: Asset, *, offset: int, at_us: int, known: BlobPlace | None, generation: int) -> RowBatch:
    """Return the rows of one asset, fetched at a time; `known` is where its bytes are already."""
    blob = BlobRow(
        digest=bytes.fromhex(asset.digest),
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        store_key=asset.key,
    )
    said = {"url": asset.url} | ({"license": asset.about.license} if asset.about.license is not None else {})
    record = RecordRow(
        record_id=asset.record_id,
        kind=asset.kind,
        digest=blob.digest,
        site=asset.about.site,
        source_id=asset.about.source,
        captured_at_us=at_us,
        sequence=at_us,
        media_type=asset.media_type,
        size_bytes=asset.size_bytes,
        width=asset.width,
        height=asset.height,
        duration_us=asset.duration_us,
        attributes=orjson.dumps(said),
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
        blobs=[] if known else [blob], records=[record], sightings=[sighting], dead_letters=[], generation=generation
    )
