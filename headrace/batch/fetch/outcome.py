"""Outcomes of URLs, one by one and in total."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from headrace.batch.fetch.errors import IngestError


class FetchStatus(StrEnum):
    """The outcome of a URL."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the bytes were stored before; their record has another sighting
    KNOWN = "known"  # an earlier run with this state file has stored it; nothing was fetched
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """The record of an ingested URL. `checksum` is the SHA-256 (hexadecimal); `url` is redacted."""

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
        """Return the fields that `IngestClient.ingest_url` returns."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOutcome:
    """The outcome of one URL of many; `url` is redacted, and either `result` or `error` is set."""

    index: int
    url: str
    status: FetchStatus
    result: FetchResult | None = None
    error: IngestError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of its JSON line."""
        fields: dict[str, Any] = {"index": self.index, "status": self.status.value}
        if self.result is not None:
            fields |= self.result.as_dict()
        if self.error is not None:
            fields |= {"url": self.url, "code": self.error.code, "reason": self.error.what, "where": self.error.where}
        return fields


@dataclass(slots=True)
class FetchTally:
    """Counts of outcomes."""

    by_status: Counter[FetchStatus] = field(default_factory=Counter)
    by_code: Counter[str] = field(default_factory=Counter)
    bytes_stored: int = 0

    def add(self, outcome: FetchOutcome) -> None:
        """Count an outcome."""
        self.by_status[outcome.status] += 1
        if outcome.error is not None:
            self.by_code[outcome.error.code] += 1
        if outcome.status is FetchStatus.STORED and outcome.result is not None:
            self.bytes_stored += outcome.result.size_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the summary: the number of URLs by status, and the failed ones by code."""
        return {
            "urls": self.by_status.total(),
            **{status.value: self.by_status[status] for status in FetchStatus},
            "failed_by_code": dict(self.by_code.most_common()),
            "bytes_stored": self.bytes_stored,
        }
