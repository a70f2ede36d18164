"""`python -m tests.proofs NAME`: a batch job at full size on real servers. Ends with 0 only if everything held."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable

# Each is a module beside this one with COUNT, its size, and `prove(count, say)`, which returns what did not hold.
NAMES = ("archive", "catalog", "disk", "export", "platform", "replay", "sites", "urls")


def main() -> int:
    """Carry out one proof, and say what did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--count", type=int, help="how many, instead of the proof's own number")
    given = parser.parse_args()
    module = importlib.import_module(f"tests.proofs.{given.name}")
    prove: Callable[[int, Callable[[str], None]], list[str]] = module.prove
    began = time.monotonic()
    wrong = prove(given.count or module.COUNT, lambda line: print(line, flush=True))
    for line in wrong:
        print(f"does not hold: {line}", file=sys.stderr)
    print(
        f"{given.name}: {'everything held' if not wrong else f'{len(wrong)} things did not hold'}, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
