"""Samples to the bytes of a shard. The same samples give the same bytes. Pure, but for pyarrow's memory."""

import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from headrace.batch.export.request import ExportFormat
from headrace.batch.export.sample import Sample

_BLOCK_BYTES = 512
_END = bytes(2 * _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class FormatWriter:
    """How one format is written. `size_of` is what a sample adds to its shard, in bytes; parquet's are compressed."""

    suffix: str
    has_media: bool
    size_of: Callable[[Sample], int]
    chunks: Callable[[AsyncIterator[Sample]], AsyncIterator[bytes]]


def form_of(format_: ExportFormat) -> FormatWriter:
    """Return how a format is written.

    Raises:
        HeadraceError: it needs a package that is not installed.
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
        for name, data in _files(sample):
            yield _header(name, len(data))
            yield data
            yield bytes(-len(data) % _BLOCK_BYTES)
    yield _END


async def _line_chunks(samples: AsyncIterator[Sample]) -> AsyncIterator[bytes]:
    async for sample in samples:
        yield sample.as_json(with_content=True) + b"\n"


def _tar_size(sample: Sample) -> int:
    return sum(_BLOCK_BYTES + len(data) + -len(data) % _BLOCK_BYTES for _, data in _files(sample))


def _line_size(sample: Sample) -> int:
    return len(sample.as_json(with_content=True)) + 1


def _files(sample: Sample) -> list[tuple[str, bytes]]:
    own = ("json", sample.as_json(with_content=False))
    return [(f"{sample.record_id}.{extension}", data) for extension, data in (own, *sample.members)]


def _header(name: str, size_bytes: int) -> bytes:
    """Return a member's header; TarInfo's own defaults are mode 0644, nobody's, and the time 0."""
    about = tarfile.TarInfo(name)
    about.size = size_bytes
    return about.tobuf(tarfile.USTAR_FORMAT)
