"""What follows a fault of a service: retry the step after a delay, or end the process before acknowledging."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, assert_never

from headrace.runtime import metrics
from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import Dependency
from headrace.store.errors import BlobsCollectedError, CatalogUnavailableError, StoreUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A service is unavailable: a transient fault."""

    service: Dependency


@dataclass(frozen=True, slots=True)
class Permanent:
    """A fault that a retry cannot mend, or that is not known."""


ServiceFault: TypeAlias = Unavailable | Permanent


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Retry the same step after this delay."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Halt:
    """End the process; Kafka redelivers what was not acknowledged."""

    exit_code: Exit


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The first delay, the longest delay, and the deadline of all attempts together, in seconds."""

    delay_s: float
    delay_s_max: float
    deadline_s: float


def next_step(fault: ServiceFault, *, attempt: int, elapsed_s: float, policy: RetryPolicy) -> RetryAfter | Halt:
    """Decide what follows the `attempt`-th failure, counted from 1, `elapsed_s` seconds after the first attempt."""
    match fault:
        case Permanent():
            return Halt(Exit.BROKEN)
        case Unavailable() if elapsed_s >= policy.deadline_s:
            return Halt(Exit.TRANSIENT)
        case Unavailable():
            delay_s = Backoff(policy.delay_s, policy.delay_s_max).delay_s(attempt)
            return RetryAfter(min(delay_s, policy.deadline_s - elapsed_s))
        case _:
            assert_never(fault)


def fault_of(error: BaseException) -> ServiceFault:
    """Classify an error; one that is not known is `Permanent`."""
    match error:
        case StoreUnavailableError():
            return Unavailable(Dependency.STORE)
        case CatalogUnavailableError():
            return Unavailable(Dependency.POSTGRES)
        case _:
            return Permanent()


class HaltError(Exception):
    """The process must end before anything of the batch is acknowledged; the text says why."""

    def __init__(self, exit_code: int, why: str) -> None:
        super().__init__(why)
        self.exit_code = exit_code


class Attempts:
    """The attempts of one step: how many failed, and for how long."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._started_s = time.monotonic()
        self._failures = 0

    async def wait(self, error: StoreUnavailableError | CatalogUnavailableError) -> None:
        """Wait until the next attempt is due.

        Raises:
            HaltError: the deadline has passed.
        """
        self._failures += 1
        elapsed_s = time.monotonic() - self._started_s
        fault = fault_of(error)
        match next_step(fault, attempt=self._failures, elapsed_s=elapsed_s, policy=self._policy):
            case Halt(exit_code):
                raise HaltError(exit_code, f"gave up after {elapsed_s:.0f} s: {error.what} ({error.where})") from error
            case RetryAfter(delay_s):
                self._report(fault, error, delay_s)
                await asyncio.sleep(delay_s)

    def _report(
        self, fault: ServiceFault, error: StoreUnavailableError | CatalogUnavailableError, delay_s: float
    ) -> None:
        service = fault.service.value if isinstance(fault, Unavailable) else ""
        metrics.worker_retries_total.labels(service).inc()
        get_log().warning(
            Action.RETRYING,
            service=service,
            why=error.what,
            where=error.where,
            attempt=self._failures,
            in_s=round(delay_s, 2),
        )


class Retry:
    """Retries a step while the service that it needs is unavailable; every other exception passes through."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    def attempts(self) -> Attempts:
        """Begin the attempts of a step that the caller repeats itself."""
        return Attempts(self._policy)

    async def __call__(self, step: Callable[[], Awaitable[T]]) -> T:
        """Carry out a step, which must be safe to repeat.

        Raises:
            HaltError: the service did not come back before the deadline.
            BlobsCollectedError: repeating this step alone cannot succeed.
        """
        attempts = self.attempts()
        while True:
            try:
                return await step()
            except BlobsCollectedError:
                raise
            except (StoreUnavailableError, CatalogUnavailableError) as error:
                await attempts.wait(error)
