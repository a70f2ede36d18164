import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.runtime import metrics
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import Dependency
from headrace.store.errors import CatalogUnavailableError, StoreUnavailableError
from headrace.streams.core.faults import Away, Broken, Halt, RetryAfter, RetryPolicy, ServiceFault, after

T = TypeVar("T")


class HaltError(Exception):
    """The process must end before anything of the batch is acknowledged; the text says why."""

    def __init__(self, exit_code: int, why: str) -> None:
        super().__init__(why)
        self.exit_code = exit_code


class Retry:
    """Repeats a step while the service it needs is away; what that step raises otherwise passes through."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    async def __call__(self, step: Callable[[], Awaitable[T]]) -> T:
        """Carry out a step, which must be safe to repeat.

        Raises:
            Halting: the service did not come back before the deadline.
        """
        started_s = time.monotonic()
        attempt = 0
        while True:
            try:
                return await step()
            except (StoreUnavailableError, CatalogUnavailableError) as error:
                attempt += 1
                elapsed_s = time.monotonic() - started_s
                fault = fault_of(error)
                match after(fault, attempt=attempt, elapsed_s=elapsed_s, policy=self._policy):
                    case Halt(exit_code):
                        raise HaltError(
                            exit_code, f"gave up after {elapsed_s:.0f} s: {error.what} ({error.where})"
                        ) from error
                    case RetryAfter(delay_s):
                        _say(fault, error, attempt, delay_s)
                        await asyncio.sleep(delay_s)


def fault_of(error: BaseException) -> ServiceFault:
    """Return what a fault means; anything unforeseen is broken."""
    match error:
        case StoreUnavailableError():
            return Away(Dependency.STORE)
        case CatalogUnavailableError():
            return Away(Dependency.POSTGRES)
        case _:
            return Broken()


def _say(
    fault: ServiceFault, error: StoreUnavailableError | CatalogUnavailableError, attempt: int, delay_s: float
) -> None:
    service = fault.service.value if isinstance(fault, Away) else ""
    metrics.worker_retries_total.labels(service).inc()
    get_log().warning(
        Action.RETRYING, service=service, why=error.what, where=error.where, attempt=attempt, in_s=round(delay_s, 2)
    )
