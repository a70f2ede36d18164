"""What became of URLs: one by one, and summed up."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from headrace.batch.fetch.asset import AssetOrigin
from headrace.batch.fetch.errors import IngestError


class FetchStatus(StrEnum):
    """What became of a URL."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the same bytes were there: another sighting of their record
    KNOWN = "known"  # an earlier run with this state file had stored it: nothing was fetched
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """What a URL became. `checksum` is the SHA-256 in hexadecimal; `url` is as it is shown."""

    id: str
    s3_key: str
    checksum: str
    duplicate: bool
    url: str
    license: str | None
    source: str
    media_type: str
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as a caller gets it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlItem:
    """A URL that is to be ingested; `index` counts from 0."""

    index: int
    url: str
    about: AssetOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOutcome:
    """What became of one URL of many. `url` is as it is shown; one of `result` and `error` is there."""

    index: int
    url: str
    status: FetchStatus
    result: FetchResult | None = None
    error: IngestError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as a line of JSON says it."""
        said: dict[str, Any] = {"index": self.index, "status": self.status.value}
        if self.result is not None:
            said |= self.result.as_dict()
        if self.error is not None:
            said |= {"url": self.url, "code": self.error.code, "reason": self.error.what, "where": self.error.where}
        return said


@dataclass(slots=True)
class FetchTally:
    """Counts outcomes."""

    by_status: Counter[FetchStatus] = field(default_factory=Counter)
    by_code: Counter[str] = field(default_factory=Counter)
    bytes_stored: int = 0

    def add(self, outcome: FetchOutcome) -> None:
        """Count one."""
        self.by_status[outcome.status] += 1
        if outcome.error is not None:
            self.by_code[outcome.error.code] += 1
        if outcome.status is FetchStatus.STORED and outcome.result is not None:
            self.bytes_stored += outcome.result.size_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the summary: how many URLs became what, and the failed ones by code."""
        return {
            "urls": self.by_status.total(),
            **{status.value: self.by_status[status] for status in FetchStatus},
            "failed_by_code": dict(self.by_code.most_common()),
            "bytes_stored": self.bytes_stored,
        }
