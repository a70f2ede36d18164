"""What became of a day's sequences, and whether it adds up."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum


class SequenceOutcome(StrEnum):
    """What became of one sequence."""

    IMPORTED = "imported"
    SKIPPED = "skipped"  # nothing of it had changed since it was imported
    FAILED = "failed"


@dataclass(slots=True)
class Day:
    """One day: what the platform listed, and what became of it. `fault` says why it could not be listed."""

    day: date
    fetched: int = 0
    outcomes: dict[SequenceOutcome, int] = field(default_factory=lambda: dict.fromkeys(SequenceOutcome, 0))
    fault: str | None = None

    @property
    def adds_up(self) -> bool:
        """Whether all that the platform has of it is accounted for."""
        return self.fault is None and self.fetched == sum(self.outcomes.values())

    @property
    def complete(self) -> bool:
        """Whether all of it is imported."""
        return self.adds_up and not self.outcomes[SequenceOutcome.FAILED]

    def sentence(self) -> str:
        """Say it in a line."""
        if self.fault is not None:
            return f"{self.day}: not complete, its list could not be read: {self.fault}"
        parts = ", ".join(f"{number} {outcome}" for outcome, number in self.outcomes.items())
        verdict = "complete" if self.complete else "not complete" + ("" if self.adds_up else ", it does not add up")
        return f"{self.day}: {self.fetched} fetched = {parts}: {verdict}"


@dataclass(slots=True)
class Statistics:
    """What a run did. Frames are those handed to this service, boxes those that no API would have taken."""

    days: list[Day] = field(default_factory=list)
    annotations_created: int = 0
    annotations_overwritten: int = 0
    detections_uploaded: int = 0
    frames_published: int = 0
    boxes_dropped: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Sequences that the platform listed."""
        return sum(day.fetched for day in self.days)

    @property
    def failed(self) -> int:
        """Sequences that are not imported."""
        return sum(day.outcomes[SequenceOutcome.FAILED] for day in self.days)

    @property
    def successful(self) -> int:
        """Sequences that are imported, now or before."""
        return sum(day.outcomes[SequenceOutcome.IMPORTED] + day.outcomes[SequenceOutcome.SKIPPED] for day in self.days)

    @property
    def complete(self) -> bool:
        """Whether each day is."""
        return all(day.complete for day in self.days)

    def sentences(self) -> str:
        """Say how the run ended, as it always was said."""
        return (
            "Processing completed!\n"
            "Final Statistics:\n"
            f"  Total sequences: {self.total}\n"
            f"  Successful sequences: {self.successful}\n"
            f"  Failed sequences: {self.failed}\n"
            f"  Annotations created: {self.annotations_created}"
        )


def days_between(first: date, last: date) -> list[date]:
    """Return each day of a range, both ends included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
