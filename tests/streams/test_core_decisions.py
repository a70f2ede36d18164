"""Quota, stall and faults: decisions about times that are passed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.errors import Exit
from headrace.runtime.metrics import Dependency
from headrace.streams.core.quota import Quota
from headrace.streams.worker.lag import Partition, PartitionOffsets, ProgressTracker
from headrace.streams.worker.retry import Halt, Permanent, RetryAfter, RetryPolicy, Unavailable, next_step

WINDOW_S = 10.0
COUNTS = st.integers(0, 8)
BATCHES = st.lists(st.tuples(st.floats(0, 8), COUNTS, COUNTS), max_size=30)


@given(batches=BATCHES, dead_letters_max=st.integers(1, 10))
def test_the_quota_counts_exactly_what_the_window_holds(
    batches: list[tuple[float, int, int]], dead_letters_max: int
) -> None:
    quota = Quota(dead_letters_max, WINDOW_S)
    now_s = 0.0
    seen: list[tuple[float, int, int]] = []
    for pause_s, good, bad in batches:
        now_s += pause_s
        seen.append((now_s, good, bad))
        held = [sample for sample in seen if sample[0] > now_s - WINDOW_S]
        bad_held, good_held = sum(sample[2] for sample in held), sum(sample[1] for sample in held)
        assert quota.exceeded(now_s, good=good, bad=bad) == (bad_held > dead_letters_max and bad_held > good_held)


def test_a_few_dead_letters_are_within_the_quota() -> None:
    assert not Quota(5, WINDOW_S).exceeded(0, good=0, bad=5)


def test_one_more_than_the_quota_exceeds_it() -> None:
    assert Quota(5, WINDOW_S).exceeded(0, good=0, bad=6)


def test_many_dead_letters_among_more_that_is_good_do_not() -> None:
    assert not Quota(5, WINDOW_S).exceeded(0, good=100, bad=100)


def test_what_is_older_than_the_window_does_not_count() -> None:
    quota = Quota(5, WINDOW_S)
    assert not quota.exceeded(0, good=0, bad=5)
    assert not quota.exceeded(WINDOW_S, good=0, bad=5)
    assert quota.exceeded(WINDOW_S + 1, good=0, bad=1)


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
def test_the_longest_standing_is_found_whatever_happened(steps: list[dict[Partition, tuple[int, int]]]) -> None:
    tracker = ProgressTracker()
    past: list[dict[Partition, PartitionOffsets]] = []

    def standing_since(partition: Partition) -> int:
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
