"""Parses the filters of `--where code=…,topic=…` for dead letters. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import input_topic, kind_of_topic
from headrace.store.catalog.dead_letters import DeadLetterState, LetterFilters

ALLOWED = ("id", "code", "source", "site", "topic", "since", "until", "state")
_TOPICS = tuple(input_topic(kind).name for kind in Kind)


def letter_filters(wheres: Iterable[str]) -> LetterFilters:
    """Parse texts of the form `name=value,name=value`; times are ISO 8601, in UTC unless they have an offset.

    Raises:
        HeadraceError: a name or a value is not allowed; the hint names the allowed ones.
    """
    values: dict[str, str] = {}
    for part in (part.strip() for where in wheres for part in where.split(",")):
        if not part:
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in ALLOWED or not equals or not value:
            raise _invalid(f"{part!r} is not a filter", f"name=value, with one of: {', '.join(ALLOWED)}")
        if name in values:
            raise _invalid(f"{name} is given twice", "give each filter once")
        values[name] = value
    topic = values.get("topic")
    if topic is not None and kind_of_topic(topic) is None:
        raise _invalid(f"{topic!r} is not an input topic", f"one of: {', '.join(_TOPICS)}")
    return LetterFilters(
        id=_id(values["id"]) if "id" in values else None,
        code=_one_of(RejectCode, "code", values.get("code")),
        site=values.get("site"),
        source=values.get("source"),
        topic=topic,
        since_us=_time_us("since", values.get("since")),
        until_us=_time_us("until", values.get("until")),
        state=DeadLetterState(state) if (state := _one_of(DeadLetterState, "state", values.get("state"))) else None,
    )


def _one_of(kind: type[StrEnum], name: str, value: str | None) -> str | None:
    if value is not None and value not in {member.value for member in kind}:
        raise _invalid(f"{value!r} is not a {name}", f"one of: {', '.join(member.value for member in kind)}")
    return value


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _invalid(f"{text!r} is not the id of a dead letter", "`headrace dlq ls` prints them") from None


def _time_us(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(f"{text!r} is not a time for {name}", "ISO 8601, for example 2026-11-21T03:00:00") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def _invalid(what: str, hint: str) -> HeadraceError:
    return HeadraceError("filter_invalid", what, hint=hint, exit_code=Exit.USAGE)
