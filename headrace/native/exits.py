"""What an exit code means, in words."""

import signal

from headrace.runtime.errors import Exit

_MEANINGS: dict[int, str] = {
    Exit.OK: "ended by itself",
    Exit.USAGE: "wrong use, or a wrong setting",
    Exit.UNREACHABLE: "a needed service was not reachable",
    Exit.STUCK: "no progress although there was work",
    Exit.TRANSIENT: "a fault did not pass within its deadline",
    Exit.QUOTA: "too many dead letters in a row",
    Exit.CRASHED: "a test ended it at a crash point",
    127: "the program could not be started",
}


def explain(code: int) -> str:
    """Say what a return code means; negative codes are signals, as Python's subprocess has them."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    meaning = _MEANINGS.get(code)
    return f"exit {code} ({meaning})" if meaning else f"exit {code}"
