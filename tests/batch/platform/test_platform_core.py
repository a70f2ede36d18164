"""Boxes, clusters, pages and days: what is decided without asking anybody."""

import random
import resource
import signal
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batch.platform.answers import detail
from headrace.batch.platform.boxes import (
    BOXES_MAX,
    Box,
    ClusteredBox,
    ClusterMethod,
    ClusterRule,
    Generation,
    cluster,
    iou,
    parse_boxes,
    valid_box,
)
from headrace.batch.platform.paging import PAGE_ROWS, PASSES_MAX, ListComplete, ListUnstable, PageCursor, next_page
from headrace.batch.platform.payloads import source_api
from headrace.batch.platform.state import ImportState, state_path
from headrace.batch.platform.statistics import DayReport, ImportStatistics, SequenceOutcome, days_between
from headrace.runtime.errors import HeadraceError

shares = st.floats(0, 1).map(lambda number: round(number, 3))


@pytest.mark.parametrize(
    ("text", "boxes", "dropped"),
    [
        ("[(0.1,0.1,0.9,0.9,0.5)]", [(0.1, 0.1, 0.9, 0.9, 0.5)], 0),
        ("(0.1, 0.1, 0.9, 0.9, 0.5)", [(0.1, 0.1, 0.9, 0.9, 0.5)], 0),
        ("[(0,0,1,1,1),(.5,.5,.6,.6,1e-1),]", [(0, 0, 1, 1, 1), (0.5, 0.5, 0.6, 0.6, 0.1)], 0),
        ("[]", [], 0),
        ("", [], 0),
        (None, [], 0),
        ("[(0.1,0.1,0.9,0.9,0.5),(0.9,0.1,0.1,0.9,0.5)]", [(0.1, 0.1, 0.9, 0.9, 0.5)], 1),
        ("[(0,0,0,0,0.5)]", [], 1),
        ("[(0.1,0.1,1.1,0.9,0.5)]", [], 1),
        ("[(-0.1,0.1,0.9,0.9,0.5)]", [], 1),
        ("[(0.1,0.1,0.9,0.9,1.5)]", [], 1),
        ("[(0.1,0.1,0.9,0.9)]", [], 1),
        ("[(0.1,0.1,0.9,0.9,0.5,0.6)]", [], 1),
        ("[(nan,0.1,0.9,0.9,0.5)]", [], 1),
        ("[[0.1,0.1,0.9,0.9,0.5]]", [], 1),
        ("[((0.1,0.1,0.9,0.9,0.5))]", [], 1),
        ("__import__('os').abort()", [], 1),
        ("[(__import__('os').abort(),0.1,0.9,0.9,0.5)]", [], 1),
        ("[" + "(0.1,0.1,0.9,0.9,0.5)," * 5000 + "]", [], 1),
        ("(" * 10_000, [], 1),
    ],
)
def test_boxes_are_parsed_strictly_and_bad_ones_are_counted(text: str | None, boxes: list, dropped: int) -> None:
    parsed = parse_boxes(text)
    assert [(*box.xyxyn, box.confidence) for box in parsed.boxes] == boxes
    assert parsed.dropped == dropped


def test_only_so_many_boxes_of_a_text_are_taken() -> None:
    parsed = parse_boxes("[" + "(0.1,0.1,0.9,0.9,0.5)," * (BOXES_MAX + 3) + "]")
    assert (len(parsed.boxes), parsed.dropped) == (BOXES_MAX, 3)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    parse_boxes(text)


@given(st.lists(st.tuples(shares, shares, shares, shares, shares), max_size=5))
def test_what_the_platform_writes_is_read(boxes: list[tuple[float, ...]]) -> None:
    parsed = parse_boxes(str(boxes))
    assert list(parsed.boxes) == [box for item in boxes if (box := valid_box(*item)) is not None]
    assert len(parsed.boxes) + parsed.dropped == len(boxes)


def placed(*rows: tuple[int, float, float]) -> list[ClusteredBox]:
    """Boxes of full height, by detection, left and right."""
    return [ClusteredBox(number, Box(left, 0.0, right, 1.0, number / 10)) for number, left, right in rows]


def members(result: tuple[tuple[ClusteredBox, ...], ...]) -> list[list[int]]:
    return [[item.detection_id for item in one_cluster] for one_cluster in result]


def test_overlap() -> None:
    item, half = Box(0, 0, 1, 1, 1), Box(0.5, 0, 1, 1, 1)
    assert iou(item, item) == 1
    assert iou(item, half) == iou(half, item) == 0.5
    assert iou(Box(0, 0, 0.5, 1, 1), half) == 0


# 1 overlaps 3, 3 overlaps 2, 1 does not overlap 2: 2 was passed over before 3 had joined.
CHAIN = placed((1, 0.0, 0.4), (2, 0.4, 0.8), (3, 0.2, 0.6))


def test_the_greedy_pass_does_not_look_again_at_a_box_that_it_passed_over() -> None:
    assert members(cluster(CHAIN, ClusterRule(), Generation.FIRST)) == [[1, 3], [2]]
    assert members(cluster(sorted(CHAIN, key=lambda item: item.box.x1), ClusterRule(), Generation.FIRST)) == [[1, 3, 2]]


def test_union_find_does_not_depend_on_the_order() -> None:
    assert members(cluster(CHAIN, ClusterRule(method=ClusterMethod.UNION_FIND), Generation.FIRST)) == [[1, 2, 3]]


def test_small_clusters_and_low_confidences_are_left_out() -> None:
    assert members(cluster(CHAIN, ClusterRule(min_cluster_size=2), Generation.FIRST)) == [[1, 3]]
    assert members(cluster(CHAIN, ClusterRule(confidence_threshold=0.2), Generation.FIRST)) == [[2, 3]]


def test_a_threshold_is_reached_in_the_first_generation_and_exceeded_in_the_second() -> None:
    halves = placed((1, 0.0, 1.0), (2, 0.5, 1.0))
    assert members(cluster(halves, ClusterRule(iou_threshold=0.5), Generation.FIRST)) == [[1, 2]]
    assert members(cluster(halves, ClusterRule(iou_threshold=0.5), Generation.SECOND)) == [[1], [2]]


def test_the_first_generation_takes_a_threshold_of_zero_for_the_default() -> None:
    barely = placed((1, 0.0, 0.5), (2, 0.4, 0.9))
    assert members(cluster(barely, ClusterRule(iou_threshold=0.0), Generation.FIRST)) == [[1], [2]]
    assert members(cluster(barely, ClusterRule(iou_threshold=0.0), Generation.SECOND)) == [[1, 2]]


def test_in_the_second_generation_a_detection_is_once_in_a_cluster() -> None:
    twice = placed((1, 0.0, 0.5), (1, 0.1, 0.6), (2, 0.0, 0.6))
    (result,) = cluster(twice, ClusterRule(), Generation.SECOND)
    assert [(item.detection_id, item.box.xyxyn) for item in result] == [(1, [0, 0, 0.6, 1]), (2, [0, 0, 0.6, 1])]
    assert members(cluster(twice, ClusterRule(), Generation.FIRST)) == [[1, 1, 2]]


@given(st.lists(st.tuples(st.integers(1, 9), shares, shares).filter(lambda item: item[1] < item[2]), max_size=12))
def test_each_box_is_in_one_cluster_and_union_find_never_has_more(rows: list[tuple[int, float, float]]) -> None:
    boxes = placed(*rows)
    greedy = cluster(boxes, ClusterRule(), Generation.FIRST)
    joined = cluster(boxes, ClusterRule(method=ClusterMethod.UNION_FIND), Generation.FIRST)
    assert sorted(map(repr, boxes)) == sorted(repr(item) for match in greedy for item in match)
    assert len(joined) <= len(greedy)


def read_all(pages_of: list[list[int]], cap: int) -> tuple[set[int], int]:
    """Read a list that is another one before each page; the last one stays."""
    reading, result, number = PageCursor(), set(), 0
    while True:
        rows = pages_of[min(number, len(pages_of) - 1)]
        page = rows[reading.offset : reading.offset + min(cap, PAGE_ROWS)]
        number += 1
        result |= set(page)
        match next_page(reading, [(number, str(number)) for number in page]):
            case ListComplete():
                return result, number
            case ListUnstable():
                return result, -1
            case going:
                assert isinstance(going, PageCursor)
                reading = going


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 100, 101, 350])
@pytest.mark.parametrize("cap", [2, 7, 100, 1000])
def test_every_row_is_read_whatever_the_server_gives_at_a_time(rows: int, cap: int) -> None:
    result, requests = read_all([list(range(rows))], cap)
    assert result == set(range(rows))
    assert requests > 0


def test_what_comes_and_goes_while_pages_are_read_loses_no_row() -> None:
    rows = list(range(20))
    with_new = [100, *rows]
    without_first = rows[1:]
    assert read_all([rows, with_new], 5)[0] >= set(with_new)
    assert read_all([rows, without_first], 5)[0] >= set(without_first)


def read_with_ties(groups: list[list[int]], order: Callable[[list[int], int], list[int]]) -> set[int] | None:
    """Read a list of groups of rows of the same time, whose order is another one for each page."""
    reading, result, pages = PageCursor(), set[int](), 0
    while True:
        rows = [(row, str(key)) for key, group in enumerate(groups) for row in order(group, pages)]
        page = rows[reading.offset : reading.offset + reading.limit]
        pages += 1
        result |= {number for number, _ in page}
        match next_page(reading, page):
            case ListComplete():
                return result
            case ListUnstable():
                return None
            case going:
                assert isinstance(going, PageCursor)
                reading = going


def shuffled(group: list[int], seed: int) -> list[int]:
    return random.Random(seed).sample(group, len(group))


@pytest.mark.parametrize("size", [2, 3, 30, 99, 100, 101])
@pytest.mark.parametrize("order", [shuffled, lambda group, page: group if page % 2 else group[::-1]])
def test_rows_of_the_same_time_at_a_pages_edge_are_all_read(
    size: int, order: Callable[[list[int], int], list[int]]
) -> None:
    tied = list(range(1000, 1000 + size))
    for before in (98, 99, 100):
        groups = [*([number] for number in range(before)), tied, *([number] for number in range(2000, 2150))]
        assert read_with_ties(groups, order) == {number for group in groups for number in group}


def test_a_list_that_never_stands_still_is_not_taken_for_whole() -> None:
    lists = [list(range(-number, 20)) for number in range(3 * PASSES_MAX)]
    assert read_all(lists, 5)[1] == -1


def test_a_day_is_complete_only_if_it_adds_up_without_failures() -> None:
    day = DayReport(date(2026, 1, 10), fetched=3)
    day.outcomes |= {SequenceOutcome.IMPORTED: 2}
    assert not day.adds_up
    assert "does not add up" in day.summary()
    day.outcomes |= {SequenceOutcome.SKIPPED: 1}
    assert day.complete
    assert day.summary() == "2026-01-10: 3 fetched = 2 imported, 1 skipped, 0 failed: complete"
    day.outcomes |= {SequenceOutcome.SKIPPED: 0, SequenceOutcome.FAILED: 1}
    assert day.adds_up
    assert not day.complete
    unread = DayReport(date(2026, 1, 11), fault="HTTP 500")
    assert not unread.adds_up
    assert "not complete" in unread.summary()


def test_the_statistics_are_said_as_they_always_were() -> None:
    day = DayReport(date(2026, 1, 10), fetched=15)
    day.outcomes |= {SequenceOutcome.IMPORTED: 14, SequenceOutcome.FAILED: 1}
    assert ImportStatistics([day], annotations_new=14).summary() == (
        "Processing completed!\nFinal Statistics:\n  Total sequences: 15\n  Successful sequences: 14\n"
        "  Failed sequences: 1\n  Annotations created: 14"
    )


def test_days_include_both_ends() -> None:
    days = days_between(date(2026, 2, 27), date(2026, 3, 1))
    assert days[0] == date(2026, 2, 27)
    assert days[-1] == date(2026, 3, 1)
    assert all((after - before).days == 1 for before, after in pairwise(days))


def test_the_platforms_address_says_what_it_is_called() -> None:
    assert source_api("https://alertapi.pyronear.org") == "pyronear_french"
    assert source_api("https://apicenia.pyronear.org/") == "api_cenia"
    assert source_api("http://127.0.0.1:8080") == "pyronear_french"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"<!DOCTYPE html>\n<p>Bad\n", ""),
        (b'{"detail":\n "no"}', ': {"detail": "no"}'),
        (b"x" * 999, ": " + "x" * 200),
    ],
)
def test_a_refusal_is_said_in_one_line(content: bytes, text: str) -> None:
    assert detail(content) == text


def test_a_state_file_survives_strange_lines_and_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "import-platform" / "state.jsonl"
    with ImportState(path) as state:
        state.mark_published(1)
        state.mark_imported(7, "mark")
    strange = b'\x00\xff\n[]\n{\n{"detection":"x"}\n' + b"a" * 5000 + b"\n" + b'{"detection":'
    path.write_bytes(path.read_bytes() + strange)
    with ImportState(path) as state:
        assert state.is_published(1)
        assert state.is_imported(7, "mark")
        state.mark_published(2)
        state.mark_published(3)
    with ImportState(path) as state:
        assert all(map(state.is_published, (1, 2, 3)))
        assert not state.is_published(4)


def test_what_a_full_disk_has_cut_spoils_no_later_line(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "state.jsonl"
    with ImportState(path) as state:
        state.mark_published(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
        try:
            with pytest.raises(HeadraceError, match="cannot write"):
                state.mark_published(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        state.mark_published(3)
    with ImportState(path) as state:
        assert [number for number in range(5) if state.is_published(number)] == [1, 3]


def test_a_slash_at_the_end_of_an_address_makes_no_other_state(tmp_path: Path) -> None:
    assert state_path(tmp_path, "http://a/", "http://b") == state_path(tmp_path, "http://a", "http://b/")
    assert state_path(tmp_path, "http://a", "http://b") != state_path(tmp_path, "http://b", "http://a")
