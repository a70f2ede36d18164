"""The one backoff formula of the project; pure, so the caller sleeps and draws the random number.

See docs/decisions for why this is not a library.
"""

from dataclasses import dataclass

_DOUBLINGS_MAX = 32
"""Enough for any maximum, and far from what a float can hold."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: `first_s` seconds after the first failure, doubled after each further one, up to `max_s`."""

    first_s: float
    max_s: float

    def delay_s(self, failures: int, *, jitter: float = 1.0, at_least_s: float = 0.0) -> float:
        """Return the seconds to wait after `failures` failures in a row (the first one is 1).

        `jitter` between 0 and 1 picks from the upper half of the delay, so that clients that failed together do not
        come back together; 1 is the whole delay. `at_least_s` is what the other side asked for (Retry-After); it
        never exceeds `max_s` either.
        """
        doublings = min(max(failures - 1, 0), _DOUBLINGS_MAX)
        delay_s = min(self.first_s * 2.0**doublings, self.max_s)
        return min(max(delay_s * (0.5 + jitter / 2), at_least_s), self.max_s)
