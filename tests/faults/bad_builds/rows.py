"""Rows that do not say what was sent: a column shifted by one row, an offset in a pack that is wrong, no marks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from headrace.store.blobs import pack
from headrace.store.catalog import catalog, parameters
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.postgres import catalog_errors

_CAPTURED_AT = 2  # of the columns of a record
_columns, _build = parameters.columns, pack.build


def _shifted(fields: Callable[[Any], tuple[Any, ...]], rows: Sequence[object]) -> Iterator[tuple[Any, ...]]:
    for number, column in enumerate(_columns(fields, rows)):
        yield (*column[1:], column[0]) if fields is catalog._RECORD and number == _CAPTURED_AT else column


def _a_byte_late(members: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[tuple[int, int]]]:
    data, spans = _build(members)
    return data, [(offset + 1, length) for offset, length in spans]


async def _unmarked(self: OrphanGc, keys: Sequence[str]) -> list[str]:
    with catalog_errors(self._dsn):
        rows = await self._holder.fetch(self._sql["unreferenced"], keys)
    return [row[0] for row in rows]


def shifted_column() -> None:
    """Insert the capture times of a batch one row too early."""
    catalog.columns = _shifted  # type: ignore[attr-defined]


def pack_offsets() -> None:
    """Say of each packed body that it begins a byte later."""
    pack.build = _a_byte_late


def collecting_unmarked() -> None:
    """Delete orphans that no row names, without telling the workers."""
    OrphanGc.mark = _unmarked  # type: ignore[method-assign]
