from batch.archive.job import archive, restore
from batch.archive.report import Report

__all__ = ["Report", "archive", "restore"]
