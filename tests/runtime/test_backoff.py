import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.backoff import Backoff

BACKOFF = Backoff(first_s=0.5, max_s=30.0)


def test_delays_double_up_to_the_maximum():
    assert [BACKOFF.delay_s(failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_without_a_failure_the_first_delay_applies():
    assert BACKOFF.delay_s(0) == 0.5


def test_jitter_picks_from_the_upper_half_of_the_delay():
    assert [BACKOFF.delay_s(3, jitter=jitter) for jitter in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]


def test_what_the_other_side_asked_for_is_kept_up_to_the_maximum():
    assert BACKOFF.delay_s(1, at_least_s=7.0) == 7.0
    assert BACKOFF.delay_s(5, at_least_s=7.0) == 8.0
    assert BACKOFF.delay_s(1, at_least_s=3600.0) == 30.0


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1e9))
def test_a_delay_is_never_above_the_maximum_nor_below_half_of_the_first(failures, jitter, at_least_s):
    assert 0.25 <= BACKOFF.delay_s(failures, jitter=jitter, at_least_s=at_least_s) <= 30.0


def test_a_maximum_below_the_first_delay_wins():
    assert Backoff(first_s=5.0, max_s=1.0).delay_s(1) == pytest.approx(1.0)
