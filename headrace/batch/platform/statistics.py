"""Counts of an import, and the reconciliation of each day: fetched = imported + skipped + failed. Pure."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum


class SequenceOutcome(StrEnum):
    """The outcome of one sequence."""

    IMPORTED = "imported"
    SKIPPED = "skipped"  # unchanged since it was imported
    FAILED = "failed"


@dataclass(slots=True)
class DayReport:
    """One day: how many sequences the platform listed, and their outcomes. `fault` is why the list failed."""

    day: date
    fetched: int = 0
    outcomes: dict[SequenceOutcome, int] = field(default_factory=lambda: dict.fromkeys(SequenceOutcome, 0))
    fault: str | None = None

    @property
    def adds_up(self) -> bool:
        """Whether every listed sequence has an outcome."""
        return self.fault is None and self.fetched == sum(self.outcomes.values())

    @property
    def complete(self) -> bool:
        """Whether every listed sequence is imported."""
        return self.adds_up and not self.outcomes[SequenceOutcome.FAILED]

    def summary(self) -> str:
        """Return the reconciliation in one line."""
        if self.fault is not None:
            return f"{self.day}: not complete, cannot read its list: {self.fault}"
        parts = ", ".join(f"{number} {outcome}" for outcome, number in self.outcomes.items())
        status = "complete" if self.complete else "not complete" + ("" if self.adds_up else ", it does not add up")
        return f"{self.day}: {self.fetched} fetched = {parts}: {status}"


@dataclass(slots=True)
class ImportStatistics:
    """The counts of a run; `frames_published` are events of this service, `boxes_dropped` invalid boxes.

    `notes` name what was imported incompletely on purpose.
    """

    days: list[DayReport] = field(default_factory=list)
    annotations_new: int = 0
    annotations_overwritten: int = 0
    annotations_planned: int = 0  # by a dry run
    sequences_empty: int = 0  # of the skipped, those without detections
    sequences_rolled_back: int = 0
    scores_refreshed: int = 0
    alerts_parked: int = 0
    images_missing: int = 0
    detections_uploaded: int = 0
    frames_published: int = 0
    boxes_dropped: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def annotations_created(self) -> int:
        """The annotations that were written, and in a dry run those that would be."""
        return self.annotations_new + self.annotations_overwritten + self.annotations_planned

    @property
    def total(self) -> int:
        """The sequences that the platform listed."""
        return sum(day.fetched for day in self.days)

    @property
    def failed(self) -> int:
        """The sequences that failed."""
        return sum(day.outcomes[SequenceOutcome.FAILED] for day in self.days)

    @property
    def successful(self) -> int:
        """The sequences that are imported, in this run or an earlier one."""
        return sum(day.outcomes[SequenceOutcome.IMPORTED] + day.outcomes[SequenceOutcome.SKIPPED] for day in self.days)

    @property
    def complete(self) -> bool:
        """Whether each day is complete."""
        return all(day.complete for day in self.days)

    def summary(self) -> str:
        """Return the final lines, whose text is an interface."""
        return (
            "Processing completed!\n"
            "Final Statistics:\n"
            f"  Total sequences: {self.total}\n"
            f"  Successful sequences: {self.successful}\n"
            f"  Failed sequences: {self.failed}\n"
            f"  Annotations created: {self.annotations_created}"
        )


def days_between(first: date, last: date) -> list[date]:
    """Return each day from `first` to `last`, both included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
