"""The report as people read it."""

from collections.abc import Iterator

from headrace.demo.report import NAMED_MAX, DemoReport, percentile

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
