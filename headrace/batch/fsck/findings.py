"""What a check found, and what became of it. No I/O."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class FsckProblem(StrEnum):
    """Everything that can be wrong between store, catalog and topics. The list is closed."""

    OBJECT_MISSING = "object_missing"  # a blob's row, and no object
    OBJECT_WITHOUT_ROW = "object_without_row"  # an object that no row names, older than the grace period
    BYTES_DIFFER = "bytes_differ"  # an object, or a blob in a pack, does not hash to its name
    SIZE_DIFFERS = "size_differs"  # an object is longer or shorter than its row says
    RECORD_WITHOUT_BLOB = "record_without_blob"  # a record, and no row that says where its bytes are
    RECORD_WITHOUT_ANNOUNCEMENT = "record_without_announcement"  # neither out nor in the outbox
    ANNOUNCEMENT_LATE = "announcement_late"  # in the outbox for too long
    ANNOUNCEMENT_WITHOUT_RECORD = "announcement_without_record"  # it speaks of a record that is not there
    STAGED_ABANDONED = "staged_abandoned"  # a staged or half promoted body that nothing claimed in time


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: `name` is the object's key, the record's id or the topic; `detail` one sentence's end."""

    problem: FsckProblem
    name: str
    detail: str = ""
    digest: str | None = None
    record_id: UUID | None = None
    outbox_id: int | None = None
    is_pack: bool = False
    in_archive: bool = False


@dataclass
class FsckReport:
    """What was checked, what was found, and with `--repair` what was healed and what could not be, with the reason."""

    found: list[Finding] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    expired: dict[str, int] = field(default_factory=dict)
    healed: list[tuple[Finding, str]] = field(default_factory=list)
    unhealed: list[tuple[Finding, str]] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        """Add to what was checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return len(self.healed) == len(self.found)
