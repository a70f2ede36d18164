"""One sample: what the catalog says of a record, and its bytes. Pure."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson

from headrace.batch.export.plan import Split
from headrace.schemas.events import Kind
from headrace.store.catalog.exports import Exported

_EXTENSIONS = MappingProxyType(
    {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "video/mp4": "mp4", "application/json": "json"}
)
_TEXT_KINDS = frozenset({Kind.CID, Kind.LDO})  # their bodies are JSON that says all of it


@dataclass(frozen=True, slots=True)
class SampleBodies:
    """The bytes of a record and of its clip; None where they were not asked for, or there are none."""

    own: bytes | None = None
    clip: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard. `fields` are what is known of it; `members` its files, by their extensions."""

    record_id: UUID
    fields: dict[str, Any]
    content: bytes | None
    members: tuple[tuple[str, bytes], ...]

    def as_json(self, *, with_content: bool) -> bytes:
        """Return its fields as one line of JSON, and what a scan or an LDO says within them where that is asked for."""
        fields = self.fields | {"attributes": _fragment(self.fields["attributes"].encode())}
        if with_content and self.content is not None:
            fields["content"] = _fragment(self.content)
        return orjson.dumps(fields)


def has_text(kind: str) -> bool:
    """Say whether the body of a kind is JSON, which every format holds."""
    return kind in _TEXT_KINDS


def label_of(exported: Exported, body: bytes | None) -> str | None:
    """Return the label: that of the wanted version; else what an LDO predicts, or the attribute of a frame or clip.

    None where none of it is text.
    """
    if exported.label is not None:
        return exported.label
    if exported.record.kind == Kind.LDO:
        said = orjson.loads(body or b"{}").get("prediction")
    else:
        said = orjson.loads(exported.record.attributes)
    label = said.get("label") if isinstance(said, dict) else None
    return label if isinstance(label, str) else None


def sample_of(
    exported: Exported, bodies: SampleBodies, *, split: Split, quality: dict[str, float | int] | None = None
) -> Sample:
    """Return a record as a sample."""
    record, clip = exported.record, exported.clip
    fields: dict[str, Any] = {
        "record_id": str(record.record_id),
        "kind": record.kind,
        "split": split.value,
        "digest": record.digest,
        "site": record.site,
        "source_id": record.source_id,
        "captured_at_us": record.captured_at_us,
        "sequence": record.sequence,
        "ingested_at_us": record.ingested_at_us,
        "media_type": record.media_type,
        "size_bytes": record.size_bytes,
        "width": record.width,
        "height": record.height,
        "duration_us": record.duration_us,
        "ldo_id": record.ldo_id,
        "code": record.code,
        "about": record.about,
        "label": label_of(exported, bodies.own),
        "clip_digest": exported.clip_sha256,
        "clip_size_bytes": clip.size_bytes if clip else None,
        "quality": quality,
        "attributes": record.attributes,
    }
    members = []
    if bodies.own is not None:
        extension = _EXTENSIONS.get(record.media_type, "bin")
        # The fields are the sample's own .json; WebDataset decodes a member by what comes last in its name.
        members.append((f"{record.kind}.json" if has_text(record.kind) else extension, bodies.own))
    if clip is not None and bodies.clip is not None:
        members.append((_EXTENSIONS.get(clip.media_type, "bin"), bodies.clip))
    content = bodies.own if has_text(record.kind) else None
    return Sample(record.record_id, fields, content, tuple(members))


def _fragment(text: bytes) -> orjson.Fragment:
    """Return JSON as it was written: its numbers have more digits than a double. Line breaks in it are only spaces."""
    return orjson.Fragment(text.replace(b"\n", b" ").replace(b"\r", b" "))
