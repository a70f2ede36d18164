"""A step is repeated while the service it needs is away, and nothing else is."""

import asyncio

import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.metrics import Dependency, worker_retries_total
from headrace.store.errors import BlobMissingError, CatalogRefusedError, ClaimMissingError, StoreRefusedError
from headrace.streams.worker.retry import HaltError, Permanent, Retry, Unavailable, fault_of
from tests.streams.streams_fakes import CATALOG_AWAY, STORE_AWAY, WHERE
from tests.streams.streams_rig import HASTY, QUICK


class RetriedStep:
    """Fails as often as it is told to."""

    def __init__(self, *faults: BaseException) -> None:
        self._faults = list(faults)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._faults:
            raise self._faults.pop(0)
        return "done"


async def test_a_step_that_succeeds_is_done_once() -> None:
    step = RetriedStep()
    assert await Retry(QUICK)(step) == "done"
    assert step.calls == 1


async def test_a_step_is_repeated_until_both_services_are_back() -> None:
    counted = {service: worker_retries_total.labels(service)._value for service in ("store", "postgres")}
    before = {service: value.get() for service, value in counted.items()}
    step = RetriedStep(STORE_AWAY, CATALOG_AWAY, STORE_AWAY)
    assert await Retry(QUICK)(step) == "done"
    assert step.calls == 4
    assert {service: value.get() - before[service] for service, value in counted.items()} == {"store": 2, "postgres": 1}


async def test_after_the_deadline_the_process_must_end_and_it_is_said_what_was_away() -> None:
    step = RetriedStep(*[STORE_AWAY] * 10**5)
    with pytest.raises(HaltError, match="PUT failed: no connection") as caught:
        await Retry(HASTY)(step)
    assert caught.value.exit_code == Exit.TRANSIENT
    assert WHERE in str(caught.value)
    assert step.calls > 1


@pytest.mark.parametrize(
    "fault",
    [
        StoreRefusedError("403", where=WHERE, hint=""),
        CatalogRefusedError("no such table", where=WHERE),
        BlobMissingError("key", where=WHERE),
        ClaimMissingError("key", where=WHERE),
        RuntimeError("unforeseen"),
        asyncio.CancelledError(),
    ],
)
async def test_whatever_else_a_step_raises_passes_through_at_once(fault: BaseException) -> None:
    step = RetriedStep(fault)
    with pytest.raises(type(fault)):
        await Retry(QUICK)(step)
    assert step.calls == 1


def test_only_an_absent_service_is_expected_to_come_back() -> None:
    assert fault_of(STORE_AWAY) == Unavailable(Dependency.STORE)
    assert fault_of(CATALOG_AWAY) == Unavailable(Dependency.POSTGRES)
    assert fault_of(StoreRefusedError("403", where=WHERE, hint="")) == Permanent()
    assert fault_of(KeyError("x")) == Permanent()
