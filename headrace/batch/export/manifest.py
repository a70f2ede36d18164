"""The files of an export that describe it, so that a later run resumes it.

`_request.json` is written first: the request and the time until which it reaches. Each complete shard has a small
`_shard-….json` with its digest and its last record. `_manifest.json` is written last and contains all of them; then the
others are removed. Readers of a directory of Parquet files ignore names that begin with `_`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from headrace.batch.export.request import ExportRequest, Split
from headrace.batch.export.target import ExportTarget
from headrace.runtime.errors import Exit, HeadraceError
from headrace.store.blobs.blob_store import once

REQUEST = "_request.json"
MANIFEST = "_manifest.json"
_SHARD_PREFIX = "_shard-"


@dataclass(frozen=True, slots=True)
class Shard:
    """A complete shard; `first` and `last` are record ids, `failed` the records between them that failed."""

    name: str
    sha256: str
    size_bytes: int
    samples: int
    first: str
    last: str
    failed: tuple[dict[str, str], ...] = ()


@dataclass
class ExportResult:
    """The shards of an export, from this run and earlier ones, and the records that failed, by error code."""

    until_us: int
    splits: dict[str, list[Shard]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    written: int = 0  # shards of this run

    @property
    def samples(self) -> int:
        """The number of samples in all shards."""
        return sum(shard.samples for shards in self.splits.values() for shard in shards)

    def as_manifest(self, request: ExportRequest) -> dict[str, Any]:
        """Return the content of the manifest."""
        return {
            "request": request.as_json(),
            "samples": self.samples,
            "splits": {name: _split_as_json(shards) for name, shards in self.splits.items()},
            "failed": [{"record_id": record, "code": code} for record, code in sorted(self.failed.items())],
        }


async def resume_request(target: ExportTarget, request: ExportRequest, *, until_given: bool) -> ExportRequest:
    """Write the request to the target, or return that of the earlier run with the time until which it reaches.

    An empty export is discarded: most often a name was mistyped.

    Raises:
        HeadraceError: the target holds another export.
    """
    if _is_empty_export(await read_json(target, MANIFEST)):
        await remove_progress(target)
        await target.remove(MANIFEST)
    stored = await _stored_request(target)
    if stored is None:
        if any(name.startswith(tuple(f"{split}-" for split in Split)) for name in await target.names()):
            raise _different_export(target, "the target contains shards of something else")
        if await target.create(REQUEST, _as_file(request.as_json())):
            return request
        # Another run has started in the same store; both continue and write the same bytes.
        stored = await _stored_request(target) or {}
    until_us = _until_us(stored)
    if until_us is None:
        raise _different_export(target, "the target contains something else")
    resumed = replace(request, wanted=replace(request.wanted, until_us=until_us))
    if _as_read(resumed) != stored or (until_given and request.wanted.until_us != until_us):
        raise _different_export(target, "the target contains another export")
    return resumed


async def finished_export(target: ExportTarget) -> ExportResult | None:
    """Return the result of a complete export, or None."""
    manifest = await read_json(target, MANIFEST)
    if not manifest:
        return None
    await remove_progress(target)
    splits = {name: [Shard(**shard) for shard in split["shards"]] for name, split in manifest["splits"].items()}
    failed = {failure["record_id"]: failure["code"] for failure in manifest["failed"]}
    return ExportResult(manifest["request"]["selection"]["until_us"], splits, failed)


async def remove_progress(target: ExportTarget) -> None:
    """Remove the request and the files of single shards, which the manifest replaces."""
    for name in await target.names():
        if name == REQUEST or name.startswith(_SHARD_PREFIX):
            await target.remove(name)


def shard_file(shard: str) -> str:
    """Return the name of the file that describes a shard."""
    return f"{_SHARD_PREFIX}{shard}.json"


async def read_json(target: ExportTarget, name: str) -> dict[str, Any] | None:
    """Return a JSON object; an empty one if the file contains something else, None if there is no file."""
    data = await target.read(name)
    if data is None:
        return None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


async def write_json(target: ExportTarget, name: str, value: Mapping[str, Any]) -> None:
    """Write or replace a JSON file."""
    await target.write(name, once(_as_file(value)))


def _split_as_json(shards: list[Shard]) -> dict[str, Any]:
    fields = ("name", "sha256", "size_bytes", "samples", "first", "last")
    return {
        "samples": sum(shard.samples for shard in shards),
        "size_bytes": sum(shard.size_bytes for shard in shards),
        "shards": [{name: getattr(shard, name) for name in fields} for shard in shards],
    }


def _different_export(target: ExportTarget, what: str) -> HeadraceError:
    return HeadraceError(
        "export_differs",
        what,
        where=target.where,
        hint="repeat the same command, or choose another directory or prefix",
        exit_code=Exit.USAGE,
    )


async def _stored_request(target: ExportTarget) -> dict[str, Any] | None:
    """Return the request of an earlier run, or None."""
    request = await read_json(target, REQUEST)
    if request is not None:
        return request
    manifest = await read_json(target, MANIFEST)
    return None if manifest is None else manifest.get("request", {})


def _is_empty_export(manifest: Mapping[str, Any] | None) -> bool:
    return manifest is not None and manifest.get("samples") == 0 and manifest.get("failed") == []


def _until_us(request: Any) -> int | None:
    """Return the time until which an earlier run reached; None if this is not a request."""
    selection = request.get("selection") if isinstance(request, dict) else None
    until_us = selection.get("until_us") if isinstance(selection, dict) else None
    return until_us if isinstance(until_us, int) else None


def _as_read(request: ExportRequest) -> Any:
    return orjson.loads(orjson.dumps(request.as_json()))


def _as_file(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
