"""Results as a table that people read."""

from collections.abc import Sequence

from tests.faults.results import Result, never_judged

_HEAD = ("", "fault", "faults", "acked", "deliveries", "duplicates", "announced", "not zero", "seconds")


def table(results: Sequence[Result], *, seed: int, seconds: float) -> str:
    """Return one line for each experiment, and a verdict."""
    rows = [_HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    notes = [f"{result.experiment}: {result.note}" for result in results if result.note]
    notes += [
        f"{result.experiment} {name}: {example}"
        for result in results
        for name, examples in result.examples.items()
        for example in examples[:3]
    ]
    failed = [result.experiment for result in results if not result.ok]
    failed += [f"nothing judged {name}" for name in never_judged(results)]
    verdict = f"failed: {', '.join(failed)}" if failed else "every invariant held"
    return "\n".join(["", *lines, "", *notes, f"{verdict}; seed {seed}, {seconds:.0f} s"])


def _row(result: Result) -> tuple[str, ...]:
    broken = [f"{name}={count}" for name, count in result.invariants.items() if count]
    unjudged = [name for name, count in result.invariants.items() if count is None]
    outcome = " ".join(broken) or (
        "none" if result.ok else "not judged" if not result.invariants else "none, but see below"
    )
    outcome += f" ({', '.join(unjudged)} not judged)" if unjudged else ""
    numbers = (result.acked, result.deliveries, result.duplicates_delivered, result.announced)
    shown = [str(number) if result.invariants else "" for number in numbers]
    return (result.experiment, result.title, str(sum(result.faults.values())), *shown, outcome, f"{result.seconds:.0f}")
