"""Relays as a deployment runs them: processes that are killed while others stand by."""

import asyncio
from pathlib import Path

import pytest

from headrace.runtime.settings import Settings
from headrace.store.catalog.catalog import Catalog
from tests.processes import ServiceProcess
from tests.streams.relay.relay_samples import LDOS, AnnouncementReader, rows
from tests.waiting import until

pytestmark = pytest.mark.stack


async def test_a_killed_relay_is_followed_by_the_one_that_stands_by(
    settings: Settings, catalog: Catalog, tmp_path: Path
):
    announced = AnnouncementReader(settings, [LDOS])
    relays = [ServiceProcess(settings, "relay", log=tmp_path / f"relay-{number}.log") for number in range(2)]
    for relay in relays:
        relay.wait_ready()
    ids = []
    for first in range(0, 600, 200):
        for part in range(4):
            batch, some = rows(50, first=first + part * 50)
            ids += some
            await catalog.commit(batch)
        until(lambda: any(_leads(relay) for relay in relays), 30, "one to lead")
        leader = next(relay for relay in relays if _leads(relay))
        leader.kill()
        leader.restart()
        await asyncio.sleep(0.2)
    events = await announced.read(600, 60)
    assert sorted(events) == sorted(ids)
    assert [relay.stop() for relay in relays] == [0, 0]
    assert sorted(await announced.read(600)) == sorted(ids)
    announced.close()


def _leads(relay: ServiceProcess) -> bool:
    return "headrace_relay_leading 1.0" in relay.get("/metrics")[1]
