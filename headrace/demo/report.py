"""From what was counted to whether it adds up. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAMED_MAX = 5  # faults of one kind that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was counted. `distinct` are the records that are new; frames and reports are counted once each.

    Everything named `expected_…` comes from what Kafka acknowledged, everything else from where it should have arrived.
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
    frames_planned: int | None  # None where the sources were ended before they were done
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
    """One thing that must hold."""

    says: str
    expected: object
    found: object

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How the run was: where the blobs went, from what, how fast, and how long each phase took, in seconds."""

    store: str
    source: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What happened, and whether it adds up."""

    findings: Findings
    circumstances: Circumstances
    checks: tuple[Check, ...]

    @property
    def good(self) -> bool:
        """Whether every number adds up."""
        return all(check.holds for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)


def report_of(findings: Findings, circumstances: Circumstances) -> DemoReport:
    """Hold the numbers against each other."""
    return DemoReport(findings, circumstances, tuple(_checks(findings)))


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of them do not exceed; None where there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def as_json(report: DemoReport) -> dict[str, Any]:
    """Return the report as `headrace demo --json` prints it."""
    found = report.findings
    seconds = report.circumstances.seconds
    publishing_s = seconds.get("publish", 0.0)
    return {
        "ok": report.good,
        "published": found.published,
        "distinct": found.distinct,
        "duplicates": found.duplicates,
        "dead_letters": dict(found.dead_letters),
        "announced": found.announced,
        "consumed": dict(found.consumed),
        "blobs_verified": found.blobs_verified,
        "latency_ms_p50": percentile(found.latencies_ms, 0.5),
        "latency_ms_p99": percentile(found.latencies_ms, 0.99),
        "messages_per_s": round(found.published / publishing_s, 1) if publishing_s else None,
        "frames": {
            "planned": found.frames_planned,
            "published": found.frames_published,
            "distinct": found.frames_distinct,
        },
        "thumbnails_verified": found.thumbnails_verified,
        "known_before": found.known_before,
        "source": report.circumstances.source,
        "store": report.circumstances.store,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "checks": [
            {"check": one.says, "expected": one.expected, "found": one.found, "ok": one.holds} for one in report.checks
        ],
        "faults": list(found.faults),
    }


def _checks(found: Findings) -> list[Check]:
    checks = [
        Check("messages that Kafka did not acknowledge", 0, found.unacknowledged),
        Check(
            "published = distinct + duplicates + dead letters",
            found.published,
            found.distinct + found.duplicates + found.dead_letters_all,
        ),
        Check("distinct records in the catalog", found.expected_distinct, found.distinct),
        Check("dead letters by code", dict(found.expected_dead_letters), dict(found.dead_letters)),
        Check("dead letters told on deadletters.v1", found.dead_letters_all, found.dead_letters_announced),
        Check("records announced", found.distinct, found.announced),
        Check("records announced more than once", 0, found.announced_twice),
        *(
            Check(f"distinct frames that {name} received", found.frames_distinct, frames)
            for name, frames in sorted(found.consumed.items())
        ),
        Check("distinct blobs re-read and re-hashed", found.blobs, found.blobs_verified),
        Check("distinct blobs = distinct records", found.distinct, found.blobs),
        Check("thumbnails re-read and re-hashed", found.thumbnails, found.thumbnails_verified),
        Check("anything else that went wrong", 0, found.strange),
    ]
    if found.frames_planned is not None:
        checks.insert(0, Check("frames of the film that were published", found.frames_planned, found.frames_published))
    if found.reports_planned:
        checks.insert(1, Check("reports that the devices published", found.reports_planned, found.reports_published))
    return checks


Row = tuple[str, object]


def rows(report: DemoReport) -> Iterator[Row]:
    """Yield what was counted, line by line."""
    found, seconds = report.findings, report.circumstances.seconds
    publishing_s = seconds.get("publish", 0.0)
    rate = f", {found.published / publishing_s:.0f}/s for {publishing_s:.0f} s" if publishing_s else ""
    yield "published", f"{found.published} (from {report.circumstances.source}{rate})"
    if found.frames_planned is not None:
        yield "  frames, each counted once", f"{found.frames_published} of {found.frames_planned}"
    if found.reports_planned:
        yield "  reports (LDOs), each counted once", f"{found.reports_published} of {found.reports_planned}"
    yield "distinct", found.distinct
    yield "duplicates", found.duplicates
    if found.known_before:
        yield "known before", f"{found.known_before} records, whose sightings count as duplicates"
    yield "dead letters", found.dead_letters_all
    for code, count in found.dead_letters.items():
        yield f"  {code}", count
    yield "announced", found.announced
    for name, frames in sorted(found.consumed.items()):
        yield f"received by {name}", f"{frames} of {found.frames_distinct} frames"
    yield (
        "blobs re-read and re-hashed",
        f"{found.blobs_verified} of {found.blobs} (store: {report.circumstances.store})",
    )
    yield "thumbnails re-read and re-hashed", f"{found.thumbnails_verified} of {found.thumbnails}"
    for share in (0.5, 0.99):
        at_ms = percentile(found.latencies_ms, share)
        yield f"published → announced p{share * 100:.0f}", "none" if at_ms is None else f"{at_ms:.0f} ms"
    yield "time", ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())


def verdict(report: DemoReport) -> Iterator[str]:
    """Yield the sentences below the table: which checks failed, and what went wrong."""
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
    """Return where to look next."""
    if keep:
        return (
            "It goes on running. Look around: `headrace ls`, `headrace dlq ls`, `headrace cat ingested.frames.v1`.",
            "Stop it with `headrace down`; `headrace down --purge` removes its data as well.",
        )
    return (
        "Nothing is left running. `headrace demo --keep` leaves it for you to look around (`headrace ls`),",
        "`headrace up` starts the service for your own cameras, and docs/ says how it works.",
    )
