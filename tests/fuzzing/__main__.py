"""`python -m tests.fuzzing`: run the fuzz targets for so many seconds, and print what they found as JSON."""

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import TypeAlias

from tests.fuzzing import batches, messages

_SHOWN_BYTES = 2000
_MESSAGES = messages.seeds()
_BATCHES = batches.seeds()

Target: TypeAlias = Callable[[Random], tuple[bytes, Callable[[], bool]]]


@dataclass
class Figures:
    """What a run has done."""

    target: str
    seed: int
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    findings: int = 0


def fuzz_messages(random: Random) -> tuple[bytes, Callable[[], bool]]:
    """Return one mutated message and the call that tries it."""
    kind, raw = random.choice(_MESSAGES)
    raw = messages.mutations(kind, raw, random)
    return raw, lambda: messages.try_message(kind, raw, random)


def fuzz_batches(random: Random) -> tuple[bytes, Callable[[], bool]]:
    """Return one mutated record batch and the call that tries it."""
    batch = batches.mutated(random.choice(_BATCHES), random)
    return batch.raw, lambda: batches.try_batch(batch)


def fuzz(target: Target, seconds: float, seed: int) -> Figures:
    """Fuzz a target; every new finding is printed with its bytes."""
    random, figures = Random(seed), Figures(target.__name__.removeprefix("fuzz_"), seed)
    unique: Counter[str] = Counter()
    start_s = time.monotonic()
    while (passed_s := time.monotonic() - start_s) < seconds:
        for _ in range(200):
            raw, attempt = target(random)
            figures.executions += 1
            try:
                figures.accepted += attempt()
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
    targets: tuple[Target, ...] = (fuzz_messages, fuzz_batches)
    findings = 0
    for target in targets:
        figures = fuzz(target, given.seconds / len(targets), seed)
        findings += figures.findings
        print(json.dumps(asdict(figures)), flush=True)
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
