"""`--where code=…,topic=…`: which dead letters, as text. No I/O."""

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
    """Return the filters that `name=value,name=value` texts say; times are ISO 8601, in UTC where they say no zone.

    Raises:
        HeadraceError: a name or a value is none that is allowed; the hint names the allowed ones.
    """
    said: dict[str, str] = {}
    for part in (part.strip() for where in wheres for part in where.split(",")):
        if not part:
            continue
        name, is_there, value = (piece.strip() for piece in part.partition("="))
        if name not in ALLOWED or not is_there or not value:
            raise _wrong(f"{part!r} is no filter", f"name=value, with one of: {', '.join(ALLOWED)}")
        if name in said:
            raise _wrong(f"{name} is given twice", "give each filter once")
        said[name] = value
    topic = said.get("topic")
    if topic is not None and kind_of_topic(topic) is None:
        raise _wrong(f"{topic!r} is no topic that sources publish on", f"one of: {', '.join(_TOPICS)}")
    return LetterFilters(
        id=_id(said["id"]) if "id" in said else None,
        code=_one_of(RejectCode, "code", said.get("code")),
        site=said.get("site"),
        source=said.get("source"),
        topic=topic,
        since_us=_time_us("since", said.get("since")),
        until_us=_time_us("until", said.get("until")),
        state=DeadLetterState(state) if (state := _one_of(DeadLetterState, "state", said.get("state"))) else None,
    )


def _one_of(kind: type[StrEnum], name: str, value: str | None) -> str | None:
    if value is not None and value not in {member.value for member in kind}:
        raise _wrong(f"{value!r} is no {name}", f"one of: {', '.join(member.value for member in kind)}")
    return value


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _wrong(f"{text!r} is no dead letter's id", "`headrace dlq ls` prints them") from None


def _time_us(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(f"{text!r} is no time for {name}", "ISO 8601, for example 2026-11-21T03:00:00") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def _wrong(what: str, hint: str) -> HeadraceError:
    return HeadraceError("filter_invalid", what, hint=hint, exit_code=Exit.USAGE)
