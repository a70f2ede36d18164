"""Quota, stall and faults: decisions about times that are passed in."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.errors import Exit
from headrace.runtime.metrics import Dependency
from headrace.schemas.catalog_rows import Outcomes, SourceKey
from headrace.schemas.topics import PartitionKey
from headrace.streams.core.quota import Quota
from headrace.streams.worker.lag import PartitionOffsets, ProgressTracker
from headrace.streams.worker.retry import Halt, Permanent, RetryAfter, RetryPolicy, Unavailable, next_step

WINDOW_S = 10.0
BAD = st.dictionaries(st.sampled_from([("plant", "a"), ("plant", "b"), b"key"]), st.integers(1, 8))
BATCHES = st.lists(st.tuples(st.floats(0, 8), st.builds(Outcomes, st.integers(0, 8), BAD)), max_size=30)


def of_sources(*counts: int, good: int = 0) -> Outcomes:
    return Outcomes(good, {("plant", str(number)): count for number, count in enumerate(counts) if count})


@given(batches=BATCHES, dead_letters_max=st.integers(1, 10))
def test_the_quota_counts_exactly_what_the_window_holds(
    batches: list[tuple[float, Outcomes]], dead_letters_max: int
) -> None:
    quota = Quota(dead_letters_max, WINDOW_S)
    now_s = 0.0
    seen: list[tuple[float, Outcomes]] = []
    for pause_s, batch in batches:
        now_s += pause_s
        before = [outcomes for time_s, outcomes in seen if time_s > now_s - WINDOW_S]
        seen.append((now_s, batch))
        bad: Counter[SourceKey] = Counter()
        for outcomes in (*before, batch):
            bad.update(outcomes.bad)
        counted = sum(min(count, (dead_letters_max + 1) // 2) for count in bad.values())
        good = sum(outcomes.good for outcomes in (*before, batch))
        is_first = not any(outcomes.bad for outcomes in before)
        exceeds = counted > dead_letters_max and counted > good and bool(batch.bad) and not is_first
        assert quota.exceeded(now_s, batch) == exceeds


def exceeded(*batches: Outcomes, dead_letters_max: int = 6) -> list[bool]:
    quota = Quota(dead_letters_max, WINDOW_S)
    return [quota.exceeded(number / 100, batch) for number, batch in enumerate(batches)]


def test_one_more_than_the_quota_exceeds_it() -> None:
    assert exceeded(of_sources(3, 1), of_sources(0, 2), of_sources(0, 0, 1)) == [False, False, True]


def test_one_bad_source_counts_for_half_the_quota_and_does_not_halt_the_others() -> None:
    assert exceeded(*[of_sources(100)] * 5, of_sources(100, good=1)) == [False] * 6


def test_the_first_batch_with_dead_letters_within_the_window_passes_and_so_does_each_without() -> None:
    bad = of_sources(100, 100, 100)
    assert exceeded(of_sources(good=1), bad, of_sources(good=1), bad) == [False, False, False, True]


def test_many_dead_letters_among_more_that_is_good_do_not() -> None:
    assert exceeded(*[of_sources(30, 30, 40, good=100)] * 2) == [False, False]


def test_what_is_older_than_the_window_does_not_count() -> None:
    quota = Quota(5, WINDOW_S)
    quota.count(0, of_sources(3, 3))
    assert quota.exceeded(WINDOW_S - 1, of_sources(1))
    assert not quota.exceeded(WINDOW_S, of_sources(3, 1))
    assert quota.exceeded(WINDOW_S + 1, of_sources(0, 2))


POLICY = RetryPolicy(delay_s=0.2, delay_s_max=5.0, deadline_s=120.0)
POLICIES = st.builds(RetryPolicy, st.floats(0.001, 60), st.floats(0.001, 300), st.floats(0.1, 600))


@given(attempt=st.integers(1, 10**9), elapsed_s=st.floats(0, 1e6), policy=POLICIES)
def test_a_service_that_is_away_is_asked_again_until_the_deadline_and_not_after(
    attempt: int, elapsed_s: float, policy: RetryPolicy
) -> None:
    match next_step(Unavailable(Dependency.STORE), attempt=attempt, elapsed_s=elapsed_s, policy=policy):
        case RetryAfter(delay_s):
            assert elapsed_s < policy.deadline_s
            assert 0 < delay_s <= policy.delay_s_max
            assert elapsed_s + delay_s <= policy.deadline_s * (1 + 1e-9)
        case Halt(exit_code):
            assert elapsed_s >= policy.deadline_s
            assert exit_code is Exit.TRANSIENT


@given(attempt=st.integers(1, 100), elapsed_s=st.floats(0, 1e6), policy=POLICIES)
def test_what_is_broken_ends_the_process_at_once(attempt: int, elapsed_s: float, policy: RetryPolicy) -> None:
    assert next_step(Permanent(), attempt=attempt, elapsed_s=elapsed_s, policy=policy) == Halt(Exit.BROKEN)


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 0.2), (2, 0.4), (3, 0.8), (6, 5.0), (1000, 5.0)])
def test_the_delay_doubles_up_to_its_limit(attempt: int, delay_s: float) -> None:
    assert next_step(Unavailable(Dependency.POSTGRES), attempt=attempt, elapsed_s=0, policy=POLICY) == RetryAfter(
        delay_s
    )


def test_the_last_delay_ends_at_the_deadline() -> None:
    assert next_step(Unavailable(Dependency.STORE), attempt=9, elapsed_s=119.0, policy=POLICY) == RetryAfter(1.0)


A, B = ("edge.frames.v1", 0), ("edge.frames.v1", 1)


def test_what_has_no_lag_does_not_stand_still() -> None:
    tracker = ProgressTracker()
    assert tracker.observe(0, {}) is None
    assert tracker.observe(1, {A: PartitionOffsets(5, 5)}) is None
    assert tracker.observe(2, {A: PartitionOffsets(9, 5)}) is None  # the topic was made anew


def test_the_partition_that_stands_still_longest_is_named_with_its_offset() -> None:
    tracker = ProgressTracker()
    assert tracker.observe(0, {A: PartitionOffsets(1, 5), B: PartitionOffsets(7, 7)}) == (A, 1)
    assert tracker.observe(1, {A: PartitionOffsets(1, 5), B: PartitionOffsets(7, 9)}) == (A, 1)
    assert tracker.observe(2, {A: PartitionOffsets(2, 5), B: PartitionOffsets(7, 9)}) == (B, 7)


def test_a_busy_neighbour_does_not_hide_a_partition_that_stands_still() -> None:
    tracker = ProgressTracker()
    tracker.observe(0, {A: PartitionOffsets(1, 500), B: PartitionOffsets(7, 9)})
    for second in range(1, 60):
        assert tracker.observe(second, {A: PartitionOffsets(1 + second, 500), B: PartitionOffsets(7, 9)}) == (B, 7)


def test_to_be_without_lag_for_a_moment_begins_the_count_anew() -> None:
    tracker = ProgressTracker()
    tracker.observe(0, {A: PartitionOffsets(1, 5), B: PartitionOffsets(3, 9)})
    tracker.observe(1, {A: PartitionOffsets(1, 1), B: PartitionOffsets(4, 9)})
    assert tracker.observe(2, {A: PartitionOffsets(1, 5), B: PartitionOffsets(4, 9)}) == (B, 4)


STEPS = st.lists(
    st.dictionaries(st.sampled_from([A, B, ("edge.clips.v1", 0)]), st.tuples(st.integers(0, 3), st.integers(0, 3))),
    max_size=12,
)


@given(steps=STEPS)
def test_the_longest_standing_is_found_whatever_happened(steps: list[dict[PartitionKey, tuple[int, int]]]) -> None:
    tracker = ProgressTracker()
    past: list[dict[PartitionKey, PartitionOffsets]] = []

    def standing_since(partition: PartitionKey) -> int:
        since = len(past) - 1
        while since > 0 and past[since - 1].get(partition, PartitionOffsets(0, 0)).lag:
            if past[since - 1][partition].committed != past[-1][partition].committed:
                break
            since -= 1
        return since

    for second, step in enumerate(steps):
        past.append({partition: PartitionOffsets(*numbers) for partition, numbers in step.items()})
        lagging = [partition for partition, offsets in past[-1].items() if offsets.lag]
        stalled = tracker.observe(second, past[-1])
        if stalled is None:
            assert not lagging
        else:
            partition, offset = stalled
            assert offset == past[-1][partition].committed
            assert standing_since(partition) == min(map(standing_since, lagging))
