"""How labelling functions did: how often each votes, agrees, disagrees and raises. Pure.

Coverage, overlap and conflict are shares of all records, as in weak supervision: a function covers a record that it
votes on, overlaps where another one votes too, and conflicts where another one votes for another label.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from headrace.batch.labels.vote import is_tie
from headrace.schemas.catalog_rows import Labelled

FAILURES_NAMED_MAX = 20
LABELS_COUNTED_MAX = 1000  # a function that gives each record a label of its own costs no memory for each of them
OTHERS = ""  # the labels beyond; it is no label itself


@dataclass
class FunctionTally:
    """What one function did, in records."""

    name: str
    voted: int = 0
    overlapped: int = 0
    conflicted: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


class LabelTally:
    """What all functions of a version did; `unlabelled` are the records that nobody voted on."""

    def __init__(self, functions: Iterable[str]) -> None:
        """Begin with nothing."""
        self.functions = {name: FunctionTally(name) for name in functions}
        self.records = 0
        self.unlabelled = 0
        self.ties = 0
        self.labels: Counter[str] = Counter()
        self.failures: list[tuple[str, str, str]] = []  # the first of them: record, function, error

    @property
    def errors(self) -> int:
        """How often a function raised."""
        return sum(function.errors.total() for function in self.functions.values())

    def add(self, one: Labelled) -> None:
        """Count what was said of one record."""
        self.records += 1
        self.ties += is_tie(one.votes.values())
        if one.label is None:
            self.unlabelled += 1
        else:
            _count(self.labels, one.label)
        said = Counter(one.votes.values())
        for name, label in one.votes.items():
            function = self.functions[name]
            function.voted += 1
            _count(function.labels, label)
            function.overlapped += len(one.votes) > 1
            function.conflicted += len(said) > 1
        for name, error in one.errors.items():
            self.functions[name].errors[error] += 1
            if len(self.failures) < FAILURES_NAMED_MAX:
                self.failures.append((str(one.record_id), name, error))

    def share(self, number: int) -> float:
        """Return a number of records as a share of all."""
        return number / self.records if self.records else 0.0


def _count(labels: Counter[str], label: str) -> None:
    labels[label if label in labels or len(labels) < LABELS_COUNTED_MAX else OTHERS] += 1
