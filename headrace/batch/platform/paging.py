"""Reads a list that is paged by offset while rows come and go. Pure.

The platform lists the newest rows first. Rows that are added while pages are read shift the rest down; rows that are
removed shift it up, and a row could be missed at a page's edge. So each page starts at the last row of the previous
one: while a row of the same time is in that place, nothing has shifted. Otherwise the list is read again from the
start. Rows of the same time have no order: a server may return them differently for each page. So a pass also counts
its rows, and if it saw fewer ids than places, another pass with other edges looks for the missing ones. A server may
return fewer rows than requested, so only a page without new rows is the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

PAGE_ROWS = 100
PASSES_MAX = 10  # over a list that changes during every pass
_EDGE_STEP = 7  # rows by which the pages of each further pass are smaller

Row: TypeAlias = tuple[int, str]  # the id, and what the list is ordered by


@dataclass(frozen=True, slots=True)
class PageCursor:
    """Where the next page starts, the rows of the previous page, and the ids of this pass and of earlier whole ones."""

    offset: int = 0
    previous: tuple[Row, ...] = ()
    passes: int = 1
    ids: frozenset[int] = frozenset()
    earlier: frozenset[int] = frozenset()

    @property
    def limit(self) -> int:
        """The rows to request."""
        return PAGE_ROWS - _EDGE_STEP * (self.passes - 1)


@dataclass(frozen=True, slots=True)
class ListComplete:
    """Every row of the list was read."""


@dataclass(frozen=True, slots=True)
class ListUnstable:
    """The list changed during every pass."""


PagingStep: TypeAlias = PageCursor | ListComplete | ListUnstable


def next_page(cursor: PageCursor, page: Sequence[Row]) -> PagingStep:
    """Return how to go on after a page."""
    rows, previous = tuple(page), cursor.previous
    ids = cursor.ids | {number for number, _ in rows}
    if not previous:
        if not rows:
            return ListComplete()
        return PageCursor(len(rows) - 1, rows, cursor.passes, ids, cursor.earlier)
    if len(rows) < cursor.limit and set(rows) == set(previous):
        return ListComplete()  # the server does not page and returned everything, or this is the only row again
    if not rows or rows[0][1] != previous[-1][1]:
        return _again(cursor, cursor.earlier)
    if len(rows) > 1:
        return PageCursor(cursor.offset + len(rows) - 1, rows, cursor.passes, ids, cursor.earlier)
    return ListComplete() if len(ids | cursor.earlier) > cursor.offset else _again(cursor, ids | cursor.earlier)


def _again(cursor: PageCursor, earlier: frozenset[int]) -> PagingStep:
    if cursor.passes >= PASSES_MAX:
        return ListUnstable()
    return PageCursor(passes=cursor.passes + 1, earlier=earlier)
