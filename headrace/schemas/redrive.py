"""The headers of a dead letter's message that is published again: which one, which attempt, and where it first stood.

A header says what anyone may say. The worker believes it only where the catalog knows that very attempt, and the
message has the bytes of that dead letter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from headrace.schemas.headers import Headers

REDRIVE_OF = "headrace_redrive_of"
REDRIVE_ATTEMPT = "headrace_redrive_attempt"
REDRIVE_ORIGIN = "headrace_redrive_origin"

_NAMES = frozenset({REDRIVE_OF, REDRIVE_ATTEMPT, REDRIVE_ORIGIN})
_ATTEMPT_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class Redrive:
    """A message that says it is a dead letter's, published again."""

    dead_letter_id: UUID
    attempt: int


def redrive_headers(original: Iterable[tuple[str, bytes]], redrive: Redrive, origin: tuple[str, int, int]) -> Headers:
    """Return a message's own headers and those of the redrive; `origin` is topic, partition, offset."""
    kept = [(name, value) for name, value in original if name not in _NAMES]
    topic, partition, offset = origin
    return [
        *kept,
        (REDRIVE_OF, str(redrive.dead_letter_id).encode()),
        (REDRIVE_ATTEMPT, str(redrive.attempt).encode()),
        (REDRIVE_ORIGIN, f"{topic}/{partition}/{offset}".encode()),
    ]


def redrive_of(headers: Iterable[tuple[str, bytes | None]]) -> Redrive | None:
    """Return what a message's headers say of a redrive; None where they say nothing, or nothing readable."""
    said = {name: value.decode("ascii", "replace") for name, value in headers if name in _NAMES and value is not None}
    if not said:
        return None
    attempt = said.get(REDRIVE_ATTEMPT, "")
    try:
        letter = UUID(said.get(REDRIVE_OF, ""))
    except ValueError:
        return None
    if not (attempt.isascii() and attempt.isdecimal() and len(attempt) <= _ATTEMPT_DIGITS_MAX):
        return None
    return Redrive(letter, int(attempt))
