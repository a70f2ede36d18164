"""Reading a list page by page while it changes.

The platform lists the newest first and pages by offset. What is added meanwhile pushes the rest down; what is removed
pulls it up, and a row slips over the page's edge. So each page begins at the last row of the one before: as long as
that row is where it was, nothing moved. Where it is not, the list is read again from its beginning. A server may answer
with fewer rows than it was asked for, so only a page that brings nothing more is the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

PAGE_ROWS = 100
PASSES_MAX = 10  # over a list that never stands still


@dataclass(frozen=True, slots=True)
class Reading:
    """Where to read on: the rows to pass over, and what the page before held."""

    offset: int = 0
    before: tuple[int, ...] = ()
    passes: int = 1


@dataclass(frozen=True, slots=True)
class Read:
    """The list is read whole."""


@dataclass(frozen=True, slots=True)
class Unsteady:
    """The list moved during every pass."""


Next: TypeAlias = Reading | Read | Unsteady


def after_page(reading: Reading, ids: Sequence[int]) -> Next:
    """Say where to go on after a page with these ids."""
    if not reading.before:
        return Reading(len(ids) - 1, tuple(ids), reading.passes) if ids else Read()
    if len(ids) < PAGE_ROWS and tuple(ids) == reading.before:
        return Read()  # the server does not page, and has shown all it has; or this is the only row again
    if not ids or ids[0] != reading.before[-1]:
        return Unsteady() if reading.passes >= PASSES_MAX else Reading(passes=reading.passes + 1)
    return Reading(reading.offset + len(ids) - 1, tuple(ids), reading.passes) if len(ids) > 1 else Read()
