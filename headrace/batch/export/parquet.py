"""Writes samples as Parquet with pyarrow: a row per sample with its fields; the only bodies are JSON."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from headrace.batch.export.request import MEASURES
from headrace.batch.export.sample import Sample
from headrace.runtime.errors import Exit, HeadraceError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise HeadraceError(
        "package_missing",
        "the Parquet format requires pyarrow, which is not installed",
        hint="run pip install 'headrace[export]', or export as jsonl, which needs no further package",
        exit_code=Exit.USAGE,
    ) from None

_TEXTS = (
    "record_id",
    "kind",
    "split",
    "digest",
    "site",
    "source_id",
    "media_type",
    "ldo_id",
    "code",
    "about",
    "label",
    "clip_digest",
    "attributes",
    "content",
)
_NUMBERS = ("sequence", "size_bytes", "width", "height", "duration_us", "clip_size_bytes")
_TIMES = ("captured_at", "ingested_at")

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.int64()) for name in _NUMBERS),
        *((name, pa.timestamp("us", tz="UTC")) for name in _TIMES),
        ("quality", pa.struct([(name, pa.float64()) for name in MEASURES])),
    ]
)


async def parquet_chunks(samples: AsyncIterator[Sample]) -> AsyncIterator[bytes]:
    """Yield one file; the shard's size limit bounds the memory."""
    columns = _columns([sample async for sample in samples])
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    yield buffer.getvalue().to_pybytes()


def _columns(samples: Iterable[Sample]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for sample in samples:
        for name, column in columns.items():
            column.append(_value(sample, name))
    return columns


def _value(sample: Sample, name: str) -> Any:
    if name == "content":
        return None if sample.content is None else sample.content.decode()
    if name in _TIMES:
        return sample.fields[f"{name}_us"]
    return sample.fields[name]
