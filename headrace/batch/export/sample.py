"""One sample: the catalog's fields of a record, and its bytes. Pure."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from headrace.batch.export.request import Split
from headrace.schemas.events import Kind
from headrace.schemas.media.formats import EXTENSIONS
from headrace.store.catalog.exports import Exported

_JSON_KINDS = frozenset({Kind.CID, Kind.LDO})  # whose body is JSON


@dataclass(frozen=True, slots=True)
class SampleBodies:
    """The bytes of a record and of its clip; None if they were not read or do not exist."""

    own: bytes | None = None
    clip: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard. `members` are its files, by extension."""

    record_id: UUID
    fields: dict[str, Any]
    content: bytes | None
    members: tuple[tuple[str, bytes], ...]

    def as_json(self, *, with_content: bool) -> bytes:
        """Return the fields as one line of JSON, optionally with the JSON body of a scan or an LDO."""
        fields = self.fields | {"attributes": _fragment(self.fields["attributes"].encode())}
        if with_content and self.content is not None:
            fields["content"] = _fragment(self.content)
        return orjson.dumps(fields)


def has_json_body(kind: str) -> bool:
    """Return whether the body of a kind is JSON, which every format contains."""
    return kind in _JSON_KINDS


def label_of(exported: Exported, body: bytes | None) -> str | None:
    """Return the label of the selected version, else the prediction of an LDO or the attribute of a frame or clip.

    None if that is not a string.
    """
    if exported.label is not None:
        return exported.label
    return declared_label(exported.record.kind, exported.record.attributes, body)


def declared_label(kind: str, attributes: str | bytes, body: bytes | None) -> str | None:
    """Return the prediction's label of an LDO with this body, or the attribute `label` of anything else."""
    source = orjson.loads(body or b"{}").get("prediction") if kind == Kind.LDO else orjson.loads(attributes)
    label = source.get("label") if isinstance(source, dict) else None
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
        extension = EXTENSIONS.get(record.media_type, "bin")
        # The fields use the extension .json; WebDataset decodes a member by the last part of its extension.
        members.append((f"{record.kind}.json" if has_json_body(record.kind) else extension, bodies.own))
    if clip is not None and bodies.clip is not None:
        members.append((EXTENSIONS.get(clip.media_type, "bin"), bodies.clip))
    content = bodies.own if has_json_body(record.kind) else None
    return Sample(record.record_id, fields, content, tuple(members))


def _fragment(text: bytes) -> orjson.Fragment:
    """Return JSON unchanged, since its numbers may exceed a double, but with line breaks replaced by spaces."""
    return orjson.Fragment(text.replace(b"\n", b" ").replace(b"\r", b" "))
