"""The checker: whether what was observed holds the invariants. Pure: it reads nothing and no clock."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from tests.faults import invariants
from tests.faults.lookup import Lookup
from tests.faults.observed import Observed

EXAMPLES_MAX = 5
GRACE_S = 86_400.0
"""As long as `headrace fsck` leaves objects without a row alone, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How often each invariant was broken, with some examples; None where there was too little to judge by."""

    counts: dict[str, int | None]
    examples: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Whether every invariant was judged, and holds."""
        return not self.broken and not self.unjudged

    @property
    def broken(self) -> set[str]:
        """The invariants that do not hold."""
        return {name for name, count in self.counts.items() if count}

    @property
    def unjudged(self) -> set[str]:
        """The invariants of which nothing is known; they have not passed."""
        return {name for name, count in self.counts.items() if count is None}


def check(observed: Observed, *, grace_s: float = GRACE_S) -> CheckResult:
    """Hold what was observed against I1 to I14.

    I7 leaves objects alone that are younger than `grace_s`, and is not judged where there are only such.

    Raises:
        ValueError: nothing was acknowledged, so that there is nothing which could have been lost.
    """
    if not observed.acks:
        raise ValueError("nothing was acknowledged: there is nothing to check")
    counts: dict[str, int | None] = {}
    examples: dict[str, list[str]] = {}
    for name, sentences in _questions(observed, grace_s).items():
        if sentences is None:
            counts[name] = None
            continue
        shortened = [sentence[:300] for sentence in sentences]
        counts[name] = len(shortened)
        if shortened:
            examples[name] = shortened[:EXAMPLES_MAX]
    return CheckResult(counts, examples)


def _questions(observed: Observed, grace_s: float) -> Mapping[str, Iterator[str] | None]:
    look, watch = Lookup(observed), observed.watch
    return {
        "I1": invariants.lost(look),
        "I2": invariants.invented(look),
        "I3": invariants.announced_twice(look),
        "I4": invariants.announced_wrongly(look),
        "I5": invariants.corrupt(look),
        "I6": invariants.without_object(look),
        "I7": invariants.without_row(look, grace_s),
        "I8": invariants.waiting(look),
        "I9": invariants.unseen(look),
        "I10": invariants.letters_wrong(look),
        "I11": invariants.out_of_order(look),
        "I12": None if watch.i12 is None else iter(watch.i12),
        "I13": None if watch.i13 is None else iter(watch.i13),
        "I14": chain(watch.i14, invariants.passed_over(look)),
    }
