"""Dead letters in responses."""

import base64
from typing import Any

import orjson
from pydantic import BaseModel, Field

from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.headers import rfc3339
from headrace.store.catalog.dead_letters import LetterView, RedriveAttempt


class DeadLetterShown(BaseModel):
    """A message that could not be ingested, without its bytes; times are UTC."""

    id: str = Field(examples=["5a0f5b0e-2f0a-4b0e-9a58-1f6c1f6f2d11"])
    state: str = Field(description="waiting, on_its_way, ingested or refused_again.", examples=["waiting"])
    code: str = Field(examples=["unknown_schema"])
    reason: str
    topic: str = Field(examples=["edge.frames.v1"])
    partition: int
    offset: int
    size_bytes: int | None = Field(description="The size of the message's value; null if it had none.")
    site: str | None
    source_id: str | None
    rejected_at: str = Field(examples=["2026-01-31T12:00:00.250000Z"])
    attempts: int = Field(description="How often it was redriven.")
    redriven_at: str | None
    record_id: str | None = Field(description="The record that a redrive became.")


class DeadLetterPage(BaseModel):
    """Dead letters, newest first, and the number of all that match by state and code."""

    dead_letters: list[DeadLetterShown]
    counts: dict[str, dict[str, int]] = Field(examples=[{"waiting": {"unknown_schema": 3}}])


class Attempt(BaseModel):
    """One redrive; `code` and `reason` are those of a second refusal."""

    attempt: int
    published_at: str | None
    ended_at: str | None
    record_id: str | None
    code: str | None
    reason: str | None


class DeadLetterWhole(DeadLetterShown):
    """A dead letter with the headers of its message and its redrives."""

    headers: dict[str, str]
    history: list[Attempt]


class RedriveAnswer(BaseModel):
    """What became of a redrive: `published`, or `refused` with the code of the current validation."""

    dry_run: bool
    accepted: int = Field(description="1 if the current validation accepts the message.")
    published: int
    refused: dict[str, int]
    exhausted: int = Field(description="1 if it was redriven HEADRACE_REDRIVE_ATTEMPTS_MAX times.")


def letter_fields(view: LetterView) -> dict[str, Any]:
    """Return a dead letter as JSON members."""
    return {
        "id": str(view.dead_letter_id),
        "state": view.state,
        "code": view.code,
        "reason": view.reason,
        "topic": view.topic,
        "partition": view.partition,
        "offset": view.offset,
        "size_bytes": view.value_bytes,
        "site": view.site,
        "source_id": view.source_id,
        "rejected_at": rfc3339(view.rejected_at_us),
        "attempts": view.attempts,
        "redriven_at": _time(view.redriven_at_us),
        "record_id": _text(view.record_id),
    }


def attempt_fields(attempt: RedriveAttempt) -> dict[str, Any]:
    """Return a redrive as JSON members."""
    return {
        "attempt": attempt.attempt,
        "published_at": _time(attempt.published_at_us),
        "ended_at": _time(attempt.ended_at_us),
        "record_id": _text(attempt.record_id),
        "code": attempt.code,
        "reason": attempt.reason,
    }


def header_fields(letter: DeadLetterRow) -> dict[str, str]:
    """Return the headers of the message; bytes that are no UTF-8 are escaped."""
    pairs = orjson.loads(letter.headers)
    return {name: base64.b64decode(value).decode("utf-8", "backslashreplace") for name, value in pairs}


def by_state(counts: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Return the counts by state, then by code."""
    states: dict[str, dict[str, int]] = {}
    for (state, code), number in counts.items():
        states.setdefault(state, {})[code] = number
    return states


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
