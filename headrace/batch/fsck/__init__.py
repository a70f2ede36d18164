from headrace.batch.fsck.check import FsckOptions, check, open_and_check
from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport

__all__ = ["Finding", "FsckOptions", "FsckProblem", "FsckReport", "check", "open_and_check"]
