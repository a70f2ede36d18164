"""`python -m tests.fuzzing`: run the fuzz targets for so many seconds, and print what they found as JSON."""

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from random import Random

from tests.fuzzing import messages

_SHOWN_BYTES = 2000


@dataclass
class Figures:
    """What a run has done."""

    target: str
    seed: int
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    findings: int = 0


def fuzz_messages(seconds: float, seed: int) -> Figures:
    """Fuzz the decoder and the validation of messages; every finding is printed with its bytes."""
    random, corpus = Random(seed), messages.seeds()
    figures = Figures("messages", seed)
    unique: Counter[str] = Counter()
    start_s = time.monotonic()
    while (passed_s := time.monotonic() - start_s) < seconds:
        for _ in range(1000):
            kind, raw = random.choice(corpus)
            raw = messages.mutations(kind, raw, random)
            figures.executions += 1
            try:
                figures.accepted += messages.try_message(kind, raw, random)
            except Exception as error:  # noqa: BLE001 - whatever it raises is a finding
                _report(unique, f"{type(error).__name__}: {error}", raw)
    figures.seconds, figures.findings = round(passed_s, 1), len(unique)
    return figures


def _report(unique: Counter[str], finding: str, raw: bytes) -> None:
    unique[finding[:60]] += 1
    if unique[finding[:60]] == 1:
        sys.stderr.write(f"{finding[:_SHOWN_BYTES]}\n  {raw[:_SHOWN_BYTES].hex()}\n")


def main() -> int:
    """Run what was asked for; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description="Fuzzes what a worker reads.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="repeats a run; random where it is not given")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    figures = [fuzz_messages(given.seconds, seed)]
    for line in figures:
        print(json.dumps(asdict(line)), flush=True)
    return int(any(line.findings for line in figures))


if __name__ == "__main__":
    sys.exit(main())
