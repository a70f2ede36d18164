"""From the votes of functions to a label. Pure."""

from collections import Counter
from collections.abc import Iterable


def majority(votes: Iterable[str]) -> str | None:
    """Return the label with most votes; None where nobody voted.

    Of labels with as many, it is the one that was voted for first: whoever writes the module decides, by the order of
    its functions.
    """
    counted = Counter(votes)  # it keeps the order in which labels came, and `max` returns the first of the greatest
    return max(counted, key=counted.__getitem__, default=None)


def is_tie(votes: Iterable[str]) -> bool:
    """Say whether the order of the functions decided."""
    most = [number for _, number in Counter(votes).most_common(2)]
    return len(most) == 2 and most[0] == most[1]
