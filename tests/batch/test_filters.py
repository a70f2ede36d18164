from uuid import UUID

import pytest

from headrace.batch.redrive import letter_filters
from headrace.runtime.errors import Exit, HeadraceError
from headrace.store.catalog.dead_letters import DeadLetterState, LetterFilters


def test_filters_come_together_from_any_number_of_texts() -> None:
    result = letter_filters(["code=unknown_schema, topic=edge.cids.v1", "since=2026-11-21T03:00:00,state=waiting"])
    assert result == LetterFilters(
        code="unknown_schema", topic="edge.cids.v1", since_us=1_795_230_000_000_000, state=DeadLetterState.WAITING
    )


def test_no_filter_is_everything() -> None:
    assert letter_filters([]) == letter_filters([" , "]) == LetterFilters()


def test_a_mirrored_topic_is_a_topic_and_a_zone_counts() -> None:
    result = letter_filters(["topic=north.edge.frames.v1,until=2026-11-21T04:00:00+01:00,source=a=b"])
    assert (result.topic, result.until_us, result.source) == ("north.edge.frames.v1", 1_795_230_000_000_000, "a=b")


def test_an_id_is_one() -> None:
    text = "11111111-2222-5333-8444-555555555555"
    assert letter_filters([f"id={text}"]).id == UUID(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("colour=blue", "id, code, source, site, topic, since, until, state"),
        ("code", "id, code"),
        ("code=", "id, code"),
        ("code=blue", "unknown_schema"),
        ("state=blue", "on_its_way"),
        ("topic=ingested.cids.v1", "edge.cids.v1"),
        ("since=yesterday", "ISO 8601"),
        ("id=7", "dlq ls"),
        ("site=a,site=b", "once"),
    ],
)
def test_a_wrong_one_names_what_is_allowed(text: str, names: str) -> None:
    with pytest.raises(HeadraceError) as raised:
        letter_filters([text])
    assert names in raised.value.hint
    assert raised.value.exit_code == Exit.USAGE
