"""The pace of a transfer: a limit is held over a volume, by the hours of the day."""

import pytest

from headrace.streams.transfer.limits import HoursLimit, TokenBucket, rate_at


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def sent(clock: Clock, bucket: TokenBucket, sizes: list[int], bytes_per_s: float | None) -> float:
    """Send parts, each as soon as it may go and then at once; return the seconds until the last part may follow."""
    start_s = clock.now_s
    for size_bytes in sizes:
        clock.now_s += bucket.take(size_bytes, bytes_per_s)
    return clock.now_s + bucket.take(0, bytes_per_s) - start_s


@pytest.mark.parametrize("sizes", [[1_000_000] * 10, [10] * 1000, [5_000_000, 1, 0, 300_000]])
def test_a_volume_takes_as_long_as_the_rate_says(sizes: list[int]) -> None:
    clock = Clock()
    assert sent(clock, TokenBucket(clock), sizes, 125_000) == pytest.approx(sum(sizes) / 125_000)


def test_a_slow_link_is_not_slowed_further_and_a_pause_saves_nothing_up() -> None:
    clock = Clock()
    bucket = TokenBucket(clock)
    assert bucket.take(1000, 100) == 0
    clock.now_s += 60  # it took longer than the rate asks for
    assert bucket.take(1000, 100) == 0
    assert bucket.take(1000, 100) == pytest.approx(10)


def test_without_a_limit_nothing_waits_but_for_what_was_taken_under_one() -> None:
    clock = Clock()
    bucket = TokenBucket(clock)
    assert [bucket.take(10**9, None) for _ in range(3)] == [0, 0, 0]
    bucket.take(1000, 100)
    assert bucket.take(10**9, None) == pytest.approx(10)
    assert bucket.take(10**9, None) == pytest.approx(10)


@pytest.mark.parametrize(
    ("hour", "rate"), [(5, None), (6, 100.0), (21, 100.0), (22, 0.0), (23, 0.0), (0, 0.0), (1, 0.0), (2, None)]
)
def test_the_first_limit_that_covers_the_hour_holds(hour: int, rate: float | None) -> None:
    assert rate_at([HoursLimit(6, 22, 100.0), HoursLimit(20, 2, 0.0)], hour) == rate
    assert rate_at([HoursLimit(0, 0, 7.0)], hour) == 7.0, "the whole day"
