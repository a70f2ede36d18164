"""What follows a fault: wait and try again, or end the process before anything is acknowledged."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit
from headrace.runtime.metrics import Dependency


@dataclass(frozen=True, slots=True)
class Away:
    """A service did not answer; it should pass."""

    service: Dependency


@dataclass(frozen=True, slots=True)
class Broken:
    """A fault that nobody foresaw, or one that does not pass by itself."""


ServiceFault: TypeAlias = Away | Broken


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Try the same step again."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Halt:
    """End the process; Kafka delivers again what was not acknowledged."""

    exit_code: Exit


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait, and until when."""

    delay_s: float
    delay_s_max: float
    deadline_s: float


def after(fault: ServiceFault, *, attempt: int, elapsed_s: float, policy: RetryPolicy) -> RetryAfter | Halt:
    """Decide what follows the `attempt`-th failure, counted from 1, `elapsed_s` seconds after the first try."""
    match fault:
        case Broken():
            return Halt(Exit.BROKEN)
        case Away() if elapsed_s >= policy.deadline_s:
            return Halt(Exit.TRANSIENT)
        case Away():
            delay_s = Backoff(policy.delay_s, policy.delay_s_max).delay_s(attempt)
            return RetryAfter(min(delay_s, policy.deadline_s - elapsed_s))
        case _:
            assert_never(fault)
