"""The view of a record that a labelling function receives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

import orjson

from headrace.store.catalog.views import StoredRecord


@dataclass(frozen=True, kw_only=True)
class RecordView:
    """The catalog's fields of a record; its bytes are read on first access.

    `captured_at_us` and `ingested_at_us` are microseconds since 1970, UTC; `digest` is the SHA-256 as hexadecimal.
    """

    record_id: UUID
    kind: str
    digest: str
    site: str
    source_id: str
    captured_at_us: int
    ingested_at_us: int
    media_type: str
    size_bytes: int
    width: int | None
    height: int | None
    duration_us: int | None
    ldo_id: str | None
    code: str | None
    about: str | None
    attributes_json: str
    read: Callable[[], bytes] = field(repr=False, compare=False)

    @property
    def attributes(self) -> Any:
        """The attributes that the source sent; a new copy on each access, so functions cannot affect each other."""
        return orjson.loads(self.attributes_json)

    @cached_property
    def body(self) -> bytes:
        """The bytes, verified against their digest; read on first access.

        Raises:
            HeadraceError: the bytes are missing or corrupt, or the store is unreachable.
        """
        return self.read()

    @property
    def content(self) -> Any:
        """The JSON body of an LDO or a scan; a new copy on each access.

        Raises:
            HeadraceError: as for `body`. ValueError: the body is not JSON.
        """
        return orjson.loads(self.body)


def record_view(record: StoredRecord, read: Callable[[StoredRecord], bytes]) -> RecordView:
    """Return the view of a record; `read` fetches its body."""
    return RecordView(
        record_id=record.record_id,
        kind=record.kind,
        digest=record.digest,
        site=record.site,
        source_id=record.source_id,
        captured_at_us=record.captured_at_us,
        ingested_at_us=record.ingested_at_us,
        media_type=record.media_type,
        size_bytes=record.size_bytes,
        width=record.width,
        height=record.height,
        duration_us=record.duration_us,
        ldo_id=record.ldo_id,
        code=record.code,
        about=record.about,
        attributes_json=record.attributes,
        read=lambda: read(record),
    )
