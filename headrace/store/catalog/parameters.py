"""Rows as the parameters of a statement: a column of each field, as JSON or as an array of the wire protocol."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from headrace.schemas.catalog_rows import DeadLetterRow, RedriveRow

# PostgreSQL takes at most 1 GiB in one message; this also bounds what a statement of dead letters holds in memory.
DEAD_LETTER_STATEMENT_BYTES_MAX = 32 * 1024 * 1024


def columns(fields: Callable[[Any], tuple[Any, ...]], rows: Sequence[object]) -> Iterator[tuple[Any, ...]]:
    """Transpose rows into columns."""
    return zip(*map(fields, rows), strict=True)


def json_columns(*columns: Sequence[object]) -> Iterator[str]:
    """Encode each column as the JSON array that the statements take.

    A column of nulls only is an empty array: PostgreSQL pads it with nulls to the longest column, at no cost.
    """
    return ("[]" if column.count(None) == len(column) else orjson.dumps(column).decode() for column in columns)


def dead_letter_values(row: DeadLetterRow) -> tuple[Any, ...]:
    """Return the values of a dead letter, in the order of `insert_dead_letters`."""
    return (
        row.dead_letter_id,
        row.code,
        storable(row.reason),
        storable(row.topic),
        row.partition,
        row.offset,
        row.message_timestamp_us,
        row.key,
        row.value,
        row.headers.decode(errors="replace"),
        storable(row.site),
        storable(row.source_id),
    )


def redrive_values(row: RedriveRow) -> tuple[Any, ...]:
    """Return the values of the outcome of a redrive, in the order of `end_redrives`."""
    return row.dead_letter_id, row.attempt, row.record_id, row.code, storable(row.reason)


def storable(text: str | None) -> str | None:
    """Replace what PostgreSQL's text type cannot store: a dead letter must never be refused for its content."""
    return None if text is None else text.replace("\0", "\ufffd").encode(errors="backslashreplace").decode()


def slices(rows: Sequence[DeadLetterRow], bytes_max: int) -> Iterator[Sequence[DeadLetterRow]]:
    """Split rows into slices of at most `bytes_max` bytes, or of a single larger row."""
    start = size = 0
    for position, row in enumerate(rows):
        row_bytes = len(row.value or b"") + len(row.key or b"") + len(row.headers)
        if size and size + row_bytes > bytes_max:
            yield rows[start:position]
            start, size = position, 0
        size += row_bytes
    if start < len(rows):
        yield rows[start:]
