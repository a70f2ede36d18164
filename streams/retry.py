import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runtime import metrics
from runtime.logs import Action, get_log
from runtime.metrics import Service
from store.errors import CatalogUnavailable, StoreUnavailable
from streams.core.faults import Away, Broken, Fault, Halt, RetryAfter, RetryPolicy, after

T = TypeVar("T")


class Halting(Exception):  # noqa: N818 - not an error of a step, but the decision to end the process
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
            except (StoreUnavailable, CatalogUnavailable) as error:
                attempt += 1
                elapsed_s = time.monotonic() - started_s
                fault = fault_of(error)
                match after(fault, attempt=attempt, elapsed_s=elapsed_s, policy=self._policy):
                    case Halt(exit_code):
                        raise Halting(
                            exit_code, f"gave up after {elapsed_s:.0f} s: {error.what} ({error.where})"
                        ) from error
                    case RetryAfter(delay_s):
                        _say(fault, error, attempt, delay_s)
                        await asyncio.sleep(delay_s)


def fault_of(error: BaseException) -> Fault:
    """Return what a fault means; anything unforeseen is broken."""
    match error:
        case StoreUnavailable():
            return Away(Service.STORE)
        case CatalogUnavailable():
            return Away(Service.POSTGRES)
        case _:
            return Broken()


def _say(fault: Fault, error: StoreUnavailable | CatalogUnavailable, attempt: int, delay_s: float) -> None:
    service = fault.service.value if isinstance(fault, Away) else ""
    metrics.worker_retries_total.labels(service).inc()
    get_log().warning(
        Action.RETRYING, service=service, why=error.what, where=error.where, attempt=attempt, in_s=round(delay_s, 2)
    )
