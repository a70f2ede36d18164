"""What a run did, or with a dry run would do. No I/O."""

from dataclasses import dataclass, field


@dataclass
class ArchiveReport:
    """What moved, in bodies and their bytes; `failed` is what stays where it is, by digest, and why.

    `waiting` are bodies that a storage class gives back only later.
    """

    dry_run: bool = False
    bodies: int = 0
    body_bytes: int = 0
    waiting: int = 0
    objects_written: int = 0
    objects_removed: int = 0
    announcements_removed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
