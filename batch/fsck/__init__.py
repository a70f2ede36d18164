from batch.fsck.check import Options, check, open_and_check
from batch.fsck.findings import Found, Problem, Report

__all__ = ["Found", "Options", "Problem", "Report", "check", "open_and_check"]
