"""Combines votes into a label and counts how often each function votes, agrees, disagrees and raises. Pure.

Coverage, overlap and conflict are shares of all records, as in weak supervision: a function covers a record that it
votes on, overlaps where another function votes too, and conflicts where another function votes for another label.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.schemas.catalog_rows import Labelled

FAILURES_NAMED_MAX = 20
LABELS_COUNTED_MAX = 1000  # bounds the memory for functions that give each record its own label
OTHERS = ""  # counts all further labels; the empty string is not a valid label


def majority(votes: Iterable[str]) -> str | None:
    """Return the label with the most votes; None without votes.

    The first vote decides ties, so the order of the functions in the module does.
    """
    counted = Counter(votes)  # keeps the order of the votes, and `max` returns the first maximum
    return max(counted, key=counted.__getitem__, default=None)


def is_tie(votes: Iterable[str]) -> bool:
    """Return whether several labels have the most votes."""
    top = [number for _, number in Counter(votes).most_common(2)]
    return len(top) == 2 and top[0] == top[1]


@dataclass
class FunctionTally:
    """The counts of one function, in records."""

    name: str
    voted: int = 0
    overlapped: int = 0
    conflicted: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


class LabelTally:
    """The counts of all functions of a version; `unlabelled` counts records without a vote."""

    def __init__(self, functions: Iterable[str]) -> None:
        self.functions = {name: FunctionTally(name) for name in functions}
        self.records = 0
        self.unlabelled = 0
        self.ties = 0
        self.labels: Counter[str] = Counter()
        self.failures: list[tuple[str, str, str]] = []  # the first ones: record, function, error

    @property
    def errors(self) -> int:
        """How often a function raised or returned an invalid label."""
        return sum(function.errors.total() for function in self.functions.values())

    def add(self, labelled: Labelled) -> None:
        """Count the votes on one record."""
        self.records += 1
        self.ties += is_tie(labelled.votes.values())
        if labelled.label is None:
            self.unlabelled += 1
        else:
            _count(self.labels, labelled.label)
        distinct = set(labelled.votes.values())
        for name, label in labelled.votes.items():
            function = self.functions[name]
            function.voted += 1
            _count(function.labels, label)
            function.overlapped += len(labelled.votes) > 1
            function.conflicted += len(distinct) > 1
        for name, error in labelled.errors.items():
            self.functions[name].errors[error] += 1
            if len(self.failures) < FAILURES_NAMED_MAX:
                self.failures.append((str(labelled.record_id), name, error))

    def share(self, number: int) -> float:
        """Return a number of records as a share of all, 0 to 1."""
        return number / self.records if self.records else 0.0


def _count(labels: Counter[str], label: str) -> None:
    labels[label if label in labels or len(labels) < LABELS_COUNTED_MAX else OTHERS] += 1
