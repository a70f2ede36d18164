"""The report of a demo: its counts, checks, JSON and table. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAMED_MAX = 5  # faults shown below the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The counts of a demo. `distinct` is the number of new records; frames and reports are counted once each.

    Fields named `expected_…` come from what Kafka acknowledged, all others from where it should have arrived.
    """

    published: int
    unacknowledged: int
    expected_distinct: int
    expected_dead_letters: Mapping[str, int]
    recorded: int
    distinct: int
    known_before: int
    dead_letters: Mapping[str, int]
    dead_letters_announced: int
    announced: int
    announced_twice: int
    frames_distinct: int
    frames_published: int
    frames_planned: int | None  # None if the sources were stopped early
    reports_published: int
    reports_planned: int | None
    consumed: Mapping[str, int]
    blobs: int
    blobs_verified: int
    thumbnails: int
    thumbnails_verified: int
    latencies_ms: Sequence[float]
    strange: int = 0
    faults: Sequence[str] = ()

    @property
    def dead_letters_all(self) -> int:
        """Dead letters of every code."""
        return sum(self.dead_letters.values())

    @property
    def duplicates(self) -> int:
        """Sightings beyond the first of each new record."""
        return self.recorded - self.distinct


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison that must hold."""

    says: str
    expected: object
    found: object

    @property
    def holds(self) -> bool:
        """Whether it holds."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The blob store, the source, and the seconds of each phase."""

    store: str
    source: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The findings of a demo and its checks."""

    findings: Findings
    circumstances: Circumstances
    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        """Whether all checks hold."""
        return all(check.holds for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)


def report_of(findings: Findings, circumstances: Circumstances) -> DemoReport:
    """Return the report with its checks."""
    return DemoReport(findings, circumstances, tuple(_checks(findings)))


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of the values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def as_json(report: DemoReport) -> dict[str, Any]:
    """Return the report as `headrace demo --json` prints it."""
    findings = report.findings
    seconds = report.circumstances.seconds
    publishing_s = seconds.get("publish", 0.0)
    return {
        "ok": report.good,
        "published": findings.published,
        "distinct": findings.distinct,
        "duplicates": findings.duplicates,
        "dead_letters": dict(findings.dead_letters),
        "announced": findings.announced,
        "consumed": dict(findings.consumed),
        "blobs_verified": findings.blobs_verified,
        "latency_ms_p50": percentile(findings.latencies_ms, 0.5),
        "latency_ms_p99": percentile(findings.latencies_ms, 0.99),
        "messages_per_s": round(findings.published / publishing_s, 1) if publishing_s else None,
        "frames": {
            "planned": findings.frames_planned,
            "published": findings.frames_published,
            "distinct": findings.frames_distinct,
        },
        "thumbnails_verified": findings.thumbnails_verified,
        "known_before": findings.known_before,
        "source": report.circumstances.source,
        "store": report.circumstances.store,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "checks": [
            {"check": check.says, "expected": check.expected, "found": check.found, "ok": check.holds}
            for check in report.checks
        ],
        "faults": list(findings.faults),
    }


def _checks(findings: Findings) -> list[Check]:
    checks = [
        Check("messages that Kafka did not acknowledge", 0, findings.unacknowledged),
        Check(
            "published = distinct + duplicates + dead letters",
            findings.published,
            findings.distinct + findings.duplicates + findings.dead_letters_all,
        ),
        Check("distinct records in the catalog", findings.expected_distinct, findings.distinct),
        Check("dead letters by code", dict(findings.expected_dead_letters), dict(findings.dead_letters)),
        Check("dead letters told on deadletters.v1", findings.dead_letters_all, findings.dead_letters_announced),
        Check("records announced", findings.distinct, findings.announced),
        Check("records announced more than once", 0, findings.announced_twice),
        *(
            Check(f"distinct frames that {name} received", findings.frames_distinct, frames)
            for name, frames in sorted(findings.consumed.items())
        ),
        Check("distinct blobs re-read and re-hashed", findings.blobs, findings.blobs_verified),
        Check("distinct blobs = distinct records", findings.distinct, findings.blobs),
        Check("thumbnails re-read and re-hashed", findings.thumbnails, findings.thumbnails_verified),
        Check("anything else that went wrong", 0, findings.strange),
    ]
    if findings.frames_planned is not None:
        checks.insert(
            0, Check("frames of the film that were published", findings.frames_planned, findings.frames_published)
        )
    if findings.reports_planned:
        checks.insert(
            1, Check("reports that the devices published", findings.reports_planned, findings.reports_published)
        )
    return checks


TableRow = tuple[str, object]


def rows(report: DemoReport) -> Iterator[TableRow]:
    """Yield the rows of the table."""
    findings, seconds = report.findings, report.circumstances.seconds
    publishing_s = seconds.get("publish", 0.0)
    rate = f", {findings.published / publishing_s:.0f}/s for {publishing_s:.0f} s" if publishing_s else ""
    yield "published", f"{findings.published} (from {report.circumstances.source}{rate})"
    if findings.frames_planned is not None:
        yield "  frames, each counted once", f"{findings.frames_published} of {findings.frames_planned}"
    if findings.reports_planned:
        yield "  reports (LDOs), each counted once", f"{findings.reports_published} of {findings.reports_planned}"
    yield "distinct", findings.distinct
    yield "duplicates", findings.duplicates
    if findings.known_before:
        yield "known before", f"{findings.known_before} records, whose sightings count as duplicates"
    yield "dead letters", findings.dead_letters_all
    for code, count in findings.dead_letters.items():
        yield f"  {code}", count
    yield "announced", findings.announced
    for name, frames in sorted(findings.consumed.items()):
        yield f"received by {name}", f"{frames} of {findings.frames_distinct} frames"
    yield (
        "blobs re-read and re-hashed",
        f"{findings.blobs_verified} of {findings.blobs} (store: {report.circumstances.store})",
    )
    yield "thumbnails re-read and re-hashed", f"{findings.thumbnails_verified} of {findings.thumbnails}"
    for share in (0.5, 0.99):
        at_ms = percentile(findings.latencies_ms, share)
        yield f"published → announced p{share * 100:.0f}", "none" if at_ms is None else f"{at_ms:.0f} ms"
    yield "time", ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())


def conclusion(report: DemoReport) -> Iterator[str]:
    """Yield the sentences below the table: the failed checks and the faults."""
    if report.good:
        yield f"Every number adds up: {len(report.checks)} checks hold."
        return
    for check in report.failed:
        yield f"Does not add up: {check.says}: expected {check.expected}, found {check.found}."
    faults = report.findings.faults
    yield from (f"  {fault}" for fault in faults[:NAMED_MAX])
    if len(faults) > NAMED_MAX:
        yield f"  … and {len(faults) - NAMED_MAX} more"


def next_steps(*, keep: bool) -> tuple[str, ...]:
    """Return hints on what to do next."""
    if keep:
        return (
            "The stack keeps running. Try `headrace ls`, `headrace dlq ls`, `headrace cat ingested.frames.v1`.",
            "Stop it with `headrace down`; `headrace down --purge` removes its data as well.",
        )
    return (
        "Nothing is left running. `headrace demo --keep` keeps the stack running (`headrace ls`),",
        "`headrace up` starts the service for your own cameras; see docs/ for details.",
    )
