"""How Headrace behaves as it grows: a large catalog, a second worker, a long backlog.

    .venv/bin/python -m benchmarks.growth [catalog] [workers] [backlog] [--json FILE]

Each part runs in a temporary native stack. docs/benchmarks.md says what is measured.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.catalog_growth import catalog_growth
from benchmarks.worker_growth import backlog_memory, scale_out
from headrace.runtime.logs import configure_logs
from headrace.runtime.settings import LogFormat

_Part = Callable[[argparse.Namespace], dict[str, Any]]

PARTS: dict[str, _Part] = {
    "catalog": lambda given: catalog_growth(given.records, say),
    "workers": lambda given: scale_out(given.ldos, say),
    "backlog": lambda given: backlog_memory(given.backlog, say),
}


def say(line: str) -> None:
    """Report progress on standard error."""
    sys.stderr.write(line + "\n")


def main() -> None:
    """Measure the parts that are named, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; without one, all of them")
    parser.add_argument("--records", type=int, default=10_000_000, help="records of the large catalog")
    parser.add_argument("--ldos", type=int, default=50_000, help="LDOs for one worker, and for two")
    parser.add_argument("--backlog", type=int, default=2_000_000, help="LDOs of the backlog")
    parser.add_argument("--json", type=Path, help="append the JSON object to this file")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    configure_logs(LogFormat.CONSOLE, "warning", "growth")
    result: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    for part in given.parts or PARTS:
        result[part] = PARTS[part](given)
    line = json.dumps(result)
    sys.stdout.write(line + "\n")
    if given.json:
        with given.json.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
