from headrace.batch.archive.job import archive, restore
from headrace.batch.archive.move import ArchiveReport

__all__ = ["ArchiveReport", "archive", "restore"]
