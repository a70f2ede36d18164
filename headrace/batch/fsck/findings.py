"""Findings of a check, and the result of their repair. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from headrace.schemas.events import Kind


class FsckProblem(StrEnum):
    """Every inconsistency between store, catalog and topics that a check reports."""

    OBJECT_MISSING = "object_missing"  # a row of a blob without its object
    OBJECT_WITHOUT_ROW = "object_without_row"  # an object that no row references, older than the grace period
    BYTES_DIFFER = "bytes_differ"  # an object, or a blob in a pack, does not hash to its name
    SIZE_DIFFERS = "size_differs"  # an object is longer or shorter than its row says
    RECORD_WITHOUT_BLOB = "record_without_blob"  # a record without a row for its bytes
    RECORD_WITHOUT_ANNOUNCEMENT = "record_without_announcement"  # neither published nor in the outbox
    ANNOUNCEMENT_LATE = "announcement_late"  # in the outbox for too long
    ANNOUNCEMENT_WITHOUT_RECORD = "announcement_without_record"  # its record does not exist
    QUARANTINE_OVER = "quarantine_over"  # an orphan that was kept in quarantine after a recovery, for long enough
    STAGED_ABANDONED = "staged_abandoned"  # a staged or partly promoted body that no message has claimed in time


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: `name` is an object's key, a record's id or a topic; `detail` continues the problem in words."""

    problem: FsckProblem
    name: str
    detail: str = ""
    digest: str | None = None
    record_id: UUID | None = None
    kind: Kind | None = None
    outbox_id: int | None = None
    is_pack: bool = False
    in_archive: bool = False
    modified_at: datetime | None = None  # of the object, as it was listed


@dataclass
class FsckReport:
    """What was checked and found; with `--repair`, what was healed, and what was not and why."""

    findings: list[Finding] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    expired: dict[str, int] = field(default_factory=dict)
    healed: list[tuple[Finding, str]] = field(default_factory=list)
    unhealed: list[tuple[Finding, str]] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        """Add to the number of checked items."""
        self.checked[what] = self.checked.get(what, 0) + number

    @property
    def clean(self) -> bool:
        """Whether nothing was found, or everything was healed."""
        return len(self.healed) == len(self.findings)
