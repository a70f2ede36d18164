"""What the offsets of group, topic and catalog mean together."""

import pytest

from headrace.streams.core.input_position import CatalogBehind, Continues, InputPosition, Verdict, judge

NONE = range(0)


@pytest.mark.parametrize(
    ("position", "verdict"),
    [
        # low, end, committed, next_offset, seen_until
        ((0, 9, None, None, None), Continues(0)),
        ((3, 9, None, None, None), Continues(3)),
        ((0, 9, 5, None, None), Continues(5)),
        ((7, 9, 5, None, None), Continues(7, range(5, 7))),
        ((0, 9, 5, 5, 5), Continues(5)),
        ((0, 9, 5, 7, 7), Continues(7)),  # a crash between the commit and the acknowledgement
        ((0, 9, None, 7, 7), Continues(7)),  # the group's offsets expired
        ((7, 9, 5, 7, 7), Continues(7)),  # deleted, but ingested
        ((8, 9, 5, 7, 7), Continues(8, range(7, 8))),
        ((8, 8, None, 2, 2), Continues(8, range(2, 8))),
        ((0, 9, 6, 5, 5), CatalogBehind(5, 6)),
        ((0, 9, 6, 5, None), CatalogBehind(5, 6)),
        ((7, 9, 6, 5, 5), CatalogBehind(5, 6)),
        ((0, 9, 6, 5, 6), Continues(6)),  # an older worker ingested it
        ((0, 9, None, 10, 10), Continues(0, restarted=True)),
        ((0, 9, 4, 10, 10), Continues(4, restarted=True)),
        ((0, 9, 99, 10, 10), Continues(0, restarted=True)),
        ((2, 9, 99, 5, 5), Continues(5, restarted=True)),
        ((2, 9, 99, None, None), Continues(2, restarted=True)),
    ],
)
def test_the_offsets_of_a_partition_say_whether_the_catalog_went_back(
    position: tuple[int, int, int | None, int | None, int | None], verdict: Verdict
) -> None:
    low, end, committed, next_, seen = position
    judged = judge(InputPosition(low=low, end=end, committed=committed, next_offset=next_, seen_until=seen))
    if isinstance(judged, Continues) and not judged.lost:
        judged = Continues(judged.next_offset, NONE, judged.restarted)
    assert judged == verdict


@pytest.mark.parametrize(("low", "lost"), [(0, range(0)), (2, range(2))])
def test_a_topic_with_another_id_is_read_from_its_start_whatever_the_offsets_say(low: int, lost: range) -> None:
    position = InputPosition(low=low, end=99, committed=7, next_offset=7, seen_until=7, anew=True)
    verdict = judge(position)
    assert isinstance(verdict, Continues)
    assert (verdict.next_offset, list(verdict.lost), verdict.restarted) == (low, list(lost), True)
