"""A record as a labelling function sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

import orjson

from headrace.store.catalog.views import StoredRecord


@dataclass(frozen=True, kw_only=True)
class RecordView:
    """What the catalog says of a record, and its bytes where a function asks for them.

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
        """What the source said beside it; a copy each time: no function changes what the next one sees."""
        return orjson.loads(self.attributes_json)

    @cached_property
    def body(self) -> bytes:
        """Its bytes, checked against their digest; read when they are first asked for.

        Raises:
            HeadraceError: they are gone or damaged, or the store is away.
        """
        return self.read()

    @property
    def content(self) -> Any:
        """What an LDO or a scan says: its body, as the JSON that it is. Another copy each time.

        Raises:
            HeadraceError: as for `body`. ValueError: the body is no JSON.
        """
        return orjson.loads(self.body)


def view_of(record: StoredRecord, read: Callable[[StoredRecord], bytes]) -> RecordView:
    """Return a record's view, whose body `read` would fetch."""
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
