"""Decides which bodies are due for the archive and which objects they become. No I/O, no clock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB, PACKED_BYTES_MAX
from headrace.store.blobs.staging import OWN_PREFIXES
from headrace.store.catalog.archives import BodyOwner

ARCHIVED_KINDS = (Kind.LDO, Kind.CLIP)
PACK_BODIES_MAX = 1000
PACK_BYTES_MAX = 16 * MIB  # a pack is held in memory, and read back, as a whole
_PACKED_MEDIA_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class SingleMove:
    """A body that becomes an object of its own."""

    body: BlobLocation


@dataclass(frozen=True, slots=True)
class PackedMove:
    """Small bodies that become one pack, in this order."""

    bodies: tuple[BlobLocation, ...]


def is_due(owners: Iterable[BodyOwner], before_us: int) -> bool:
    """Return whether every record of a body is of an archived kind and was ingested before `before_us`."""
    return all(owner.kind in ARCHIVED_KINDS and owner.ingested_at_us < before_us for owner in owners)


def plan_objects(bodies: Sequence[BlobLocation]) -> Iterator[SingleMove | PackedMove]:
    """Yield the objects that bodies become, small bodies packed in the given order; each body is in one of them.

    It is deterministic, so a run that was killed finds the objects it has already written.
    """
    packable: list[BlobLocation] = []
    size_bytes = 0
    for body in bodies:
        if not _is_small(body):
            yield SingleMove(body)
            continue
        if packable and (len(packable) == PACK_BODIES_MAX or size_bytes + body.size_bytes > PACK_BYTES_MAX):
            yield _object(packable)
            packable, size_bytes = [], 0
        packable.append(body)
        size_bytes += body.size_bytes
    if packable:
        yield _object(packable)


def in_reading_order(bodies: Iterable[BlobLocation]) -> list[BlobLocation]:
    """Return the distinct bodies, grouped by object and sorted by offset."""
    distinct = {body.digest: body for body in bodies}
    return sorted(distinct.values(), key=lambda body: (body.store_key, body.store_offset or 0, body.digest))


def delay_s(read_bytes: int, elapsed_s: float, bytes_per_s: int) -> float:
    """Return the seconds to wait until `read_bytes` since the start are within the rate limit."""
    return max(0.0, read_bytes / bytes_per_s - elapsed_s)


def is_separate(archive_url: str, store_url: str) -> bool:
    """Return whether the keys of the archive cannot collide with those of the store."""
    archive, store = (urlsplit(url) for url in (archive_url, store_url))
    if (archive.scheme, archive.netloc) != (store.scheme, store.netloc):
        return True
    archive_path, store_path = (
        parts.path.strip("/").split("/") if parts.path.strip("/") else [] for parts in (archive, store)
    )
    if archive_path[: len(store_path)] != store_path:
        return True
    below = archive_path[len(store_path) :]
    return bool(below) and f"{below[0]}/" not in OWN_PREFIXES


def _is_small(body: BlobLocation) -> bool:
    return body.media_type == _PACKED_MEDIA_TYPE and body.size_bytes < PACKED_BYTES_MAX


def _object(bodies: list[BlobLocation]) -> SingleMove | PackedMove:
    return SingleMove(bodies[0]) if len(bodies) == 1 else PackedMove(tuple(bodies))
