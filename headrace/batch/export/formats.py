"""Encodes samples as the bytes of a shard, deterministically."""

import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from headrace.batch.export.request import ExportFormat
from headrace.batch.export.sample import Sample

_BLOCK_BYTES = 512
_TAR_END = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class FormatWriter:
    """The writer of a format. `size_of` is the size of a sample in its shard, in bytes before compression."""

    suffix: str
    has_media: bool
    size_of: Callable[[Sample], int]
    chunks: Callable[[AsyncIterator[Sample]], AsyncIterator[bytes]]


def writer_for(format_: ExportFormat) -> FormatWriter:
    """Return the writer of a format.

    Raises:
        HeadraceError: the format needs a package that is not installed.
    """
    match format_:
        case ExportFormat.WEBDATASET:
            return FormatWriter("tar", has_media=True, size_of=_tar_size, chunks=_tar_chunks)
        case ExportFormat.JSONL:
            return FormatWriter("jsonl", has_media=False, size_of=_line_size, chunks=_line_chunks)
        case ExportFormat.PARQUET:
            from headrace.batch.export.parquet import parquet_chunks

            return FormatWriter("parquet", has_media=False, size_of=_line_size, chunks=parquet_chunks)


async def _tar_chunks(samples: AsyncIterator[Sample]) -> AsyncIterator[bytes]:
    async for sample in samples:
        for name, data in _tar_members(sample):
            yield _tar_header(name, len(data))
            yield data
            yield bytes(-len(data) % _BLOCK_BYTES)
    yield _TAR_END


async def _line_chunks(samples: AsyncIterator[Sample]) -> AsyncIterator[bytes]:
    async for sample in samples:
        yield sample.as_json(with_content=True) + b"\n"


def _tar_size(sample: Sample) -> int:
    return sum(_BLOCK_BYTES + len(data) + -len(data) % _BLOCK_BYTES for _, data in _tar_members(sample))


def _line_size(sample: Sample) -> int:
    return len(sample.as_json(with_content=True)) + 1


def _tar_members(sample: Sample) -> list[tuple[str, bytes]]:
    fields = ("json", sample.as_json(with_content=False))
    return [(f"{sample.record_id}.{extension}", data) for extension, data in (fields, *sample.members)]


def _tar_header(name: str, size_bytes: int) -> bytes:
    """Return a member's header; TarInfo's defaults (mode 0644, user 0, time 0) are deterministic."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.USTAR_FORMAT)
