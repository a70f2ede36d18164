"""Which bodies are due, and what objects they go into. No I/O, no clock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from headrace.schemas.catalog_rows import BlobPlace
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB, PACKED_BYTES_MAX
from headrace.store.blobs.staging import OWN_PREFIXES
from headrace.store.catalog.archives import BodyOwner

ARCHIVED_KINDS = (Kind.LDO, Kind.CLIP)
PACK_BODIES_MAX = 1000
PACK_BYTES_MAX = 16 * MIB  # it is held in memory, and read back, in one piece
_PACKED_MEDIA_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class SingleMove:
    """A body that becomes an object of its own."""

    body: BlobPlace


@dataclass(frozen=True, slots=True)
class PackedMove:
    """Small bodies that become one pack, in this order."""

    bodies: tuple[BlobPlace, ...]


def is_due(owners: Iterable[BodyOwner], before_us: int) -> bool:
    """Say whether bytes may go: everything that they belong to is of a kind that goes, and older than this."""
    return all(one.kind in ARCHIVED_KINDS and one.ingested_at_us < before_us for one in owners)


def objects_of(bodies: Sequence[BlobPlace]) -> Iterator[SingleMove | PackedMove]:
    """Yield what objects bodies become, the small ones packed as they come; each of the bodies is in one of them.

    The same bodies become the same objects, so a run that was killed finds its own again.
    """
    waiting: list[BlobPlace] = []
    size = 0
    for body in bodies:
        if not _is_small(body):
            yield SingleMove(body)
            continue
        if waiting and (len(waiting) == PACK_BODIES_MAX or size + body.size_bytes > PACK_BYTES_MAX):
            yield _object(waiting)
            waiting, size = [], 0
        waiting.append(body)
        size += body.size_bytes
    if waiting:
        yield _object(waiting)


def in_reading_order(bodies: Iterable[BlobPlace]) -> list[BlobPlace]:
    """Return bodies without repetition, those of one object beside each other."""
    distinct = {body.digest: body for body in bodies}
    return sorted(distinct.values(), key=lambda body: (body.store_key, body.store_offset or 0, body.digest))


def wait_s(taken_bytes: int, elapsed_s: float, bytes_per_s: int) -> float:
    """Return the seconds to wait so that no more than so many bytes a second were taken since the start."""
    return max(0.0, taken_bytes / bytes_per_s - elapsed_s)


def is_apart(archive_url: str, store_url: str) -> bool:
    """Say whether the archive's objects cannot be taken for the store's."""
    archive, store = (urlsplit(url) for url in (archive_url, store_url))
    if (archive.scheme, archive.netloc) != (store.scheme, store.netloc):
        return True
    ours, theirs = (parts.path.strip("/").split("/") if parts.path.strip("/") else [] for parts in (archive, store))
    if ours[: len(theirs)] != theirs:
        return True
    below = ours[len(theirs) :]
    return bool(below) and f"{below[0]}/" not in OWN_PREFIXES


def _is_small(body: BlobPlace) -> bool:
    return body.media_type == _PACKED_MEDIA_TYPE and body.size_bytes < PACKED_BYTES_MAX


def _object(bodies: list[BlobPlace]) -> SingleMove | PackedMove:
    return SingleMove(bodies[0]) if len(bodies) == 1 else PackedMove(tuple(bodies))
