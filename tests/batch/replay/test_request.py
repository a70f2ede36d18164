"""What a replay is, when its items are due, and what its plan says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batch.replay.request import Pace, ReplayRequest, Schedule, check_topic, parse_speed, plan_lines
from headrace.runtime.errors import HeadraceError
from headrace.schemas.events import Kind
from headrace.schemas.topics import INSTALLATION_TOPIC, TOPICS
from headrace.store.catalog.replays import KindPlan, ReplayPlan, ReplaySelection, SitePlan

START_US = 1_790_000_000_000_000


@pytest.mark.parametrize("speed", [1.0, 10.0, 0.5])
def test_an_item_is_due_as_long_after_the_first_as_it_was_captured_divided_by_the_speed(speed: float) -> None:
    schedule = Schedule(Pace(speed))
    dues_s = [schedule.due_s(START_US + second * 1_000_000) for second in range(5)]
    assert dues_s == pytest.approx([second / speed for second in range(5)])


def test_at_full_speed_everything_is_due_and_a_rate_spreads_it() -> None:
    full = Schedule(Pace())
    assert [full.due_s(START_US + second * 1_000_000) for second in range(3)] == [0, 0, 0]
    limited = Schedule(Pace(rate=4))
    assert [limited.due_s(START_US) for _ in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_what_is_gone_takes_no_time() -> None:
    schedule = Schedule(Pace(1.0, rate=1))
    assert schedule.due_s(None) == 0
    assert [schedule.due_s(START_US), schedule.due_s(None), schedule.due_s(START_US + 5_000_000)] == [0, 1, 5]


@given(
    st.lists(st.integers(0, 10**9), min_size=1).map(sorted),
    st.none() | st.floats(0.1, 100),
    st.none() | st.floats(0.1, 1000),
)
def test_no_item_is_due_before_the_one_before_it(times: list[int], speed: float | None, rate: float | None) -> None:
    schedule = Schedule(Pace(speed, rate))
    dues_s = [schedule.due_s(START_US + time_us) for time_us in times]
    assert dues_s == sorted(dues_s)
    assert dues_s[0] == 0


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("1", 1.0), ("10x", 10.0), ("0.5", 0.5)])
def test_a_speed_is_a_number_or_max(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf", ""])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(HeadraceError, match="is not a speed"):
        parse_speed(text)


@pytest.mark.parametrize("name", [*TOPICS, INSTALLATION_TOPIC, "factory-a.edge.frames.v1", "__consumer_offsets"])
def test_a_topic_of_the_service_is_no_target(name: str) -> None:
    with pytest.raises(HeadraceError, match="is a topic of Headrace or of Kafka"):
        check_topic(name)


def test_a_topic_of_ones_own_is_a_target() -> None:
    check_topic("my.ingested.frames")


def test_a_request_is_told_from_another_by_what_the_catalog_keeps_of_it() -> None:
    frames = ReplayRequest(wanted=ReplaySelection(kinds=(Kind.FRAME,)), sink="stdout")
    assert frames.as_json() == ReplayRequest(wanted=ReplaySelection(kinds=(Kind.FRAME,)), sink="stdout").as_json()
    assert frames.as_json() != ReplayRequest(wanted=ReplaySelection(), sink="stdout").as_json()
    assert frames.as_json() != ReplayRequest(wanted=ReplaySelection(kinds=(Kind.FRAME,)), sink="topic:t").as_json()


def test_a_plan_says_how_much_from_where_and_what_is_not_there() -> None:
    frames = KindPlan("frame", 600, 6_000, 10, 100, 2, START_US, START_US + 3_600_000_000)
    plan = ReplayPlan((frames,), (SitePlan("factory-a", 3, 600),), unknown=4, erased=1)
    text = "\n".join(plan_lines(plan, Pace(10.0)))
    for said in (
        "600 events, 6000 bytes: 600 frames",
        "from factory-a: 600 events of 3 sources",
        "takes about 0:06:00",
        "10 of them are archived, 100 bytes",
        "2 of them have no bytes here, and are left out",
        "4 digests have no record; 1 of these were erased",
    ):
        assert said in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_plan_of_nothing_says_so() -> None:
    assert plan_lines(ReplayPlan(), Pace()) == ["0 events, 0 bytes: nothing is selected"]
