"""A worker says that it is ready once it belongs to its group, and not before."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import heartbeat_s
from headrace.runtime.settings import Settings, load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.membership import Membership
from headrace.streams.worker.profile import REBALANCE_TIMEOUT_S, SMALL, faust_app
from tests.processes import ServiceProcess
from tests.waiting import until

CID = frozenset({Kind.CID})
TOPIC = input_topic(Kind.CID).name
JOINED_S_MAX = 60.0


@contextmanager
def running(settings: Settings, log: Path) -> Iterator[ServiceProcess]:
    process = ServiceProcess(settings, "worker", "--kinds", "cids", log=log, kafka_session_s=20)
    try:
        yield process
    finally:
        process.stop()


def needs(worker: ServiceProcess) -> dict[str, str]:
    status, text = worker.get("/readyz")
    return dict(json.loads(text)["needs"]) if status in {200, 503} else {}


@pytest.mark.stack
def test_a_worker_is_ready_once_it_has_its_share_and_not_while_the_group_waits_for_another(
    settings: Settings, tmp_path: Path
) -> None:
    with running(settings, tmp_path / "first") as first:
        first.wait_ready()
        assert needs(first)["kafka_group"] == "ok"
        # It answers no rebalance now, and Kafka waits for it until its session has run out.
        first.process.send_signal(signal.SIGSTOP)
        try:
            with running(settings, tmp_path / "second") as second:
                until(lambda: waited_for(second) == ["kafka_group"], JOINED_S_MAX, "everything but the group")
                assert second.get("/readyz")[0] == 503
                assert needs(second)["kafka_group"] == "the consumer group has not assigned partitions yet"
                first.process.send_signal(signal.SIGCONT)
                second.wait_ready()
                first.wait_ready()
        finally:
            first.process.send_signal(signal.SIGCONT)


def waited_for(worker: ServiceProcess) -> list[str]:
    return [name for name, state in needs(worker).items() if state != "ok"]


async def joined(membership: Membership) -> bool:
    try:
        await membership.check()
    except HeadraceError:
        return False
    return True


@pytest.mark.parametrize("share", [set(), {TP(TOPIC, 0)}], ids=["no partition", "a partition"])
async def test_it_belongs_to_the_group_from_its_assignment_until_that_is_taken_back(share: set[Any]) -> None:
    app = faust_app(load_settings(_env_file=None), SMALL, CID)
    membership = Membership(app)
    assert not await joined(membership)
    await app.on_partitions_revoked.send(set())  # as it comes before the very first assignment
    assert not await joined(membership)
    await app.on_partitions_assigned.send(share)
    assert await joined(membership)
    assert membership.assignment() == share
    await app.on_partitions_revoked.send(share)
    assert not await joined(membership)
    assert membership.assignment() is None, "no share is another thing than an empty one"


def test_asking_for_the_share_makes_no_consumer() -> None:
    app = faust_app(load_settings(_env_file=None), SMALL, CID)
    assert Membership(app).assignment() is None
    assert app._consumer is None, "another than the one that the app will start"


@pytest.mark.parametrize(("session_s", "expected_s"), [(6, 2), (9, 3), (30, 3), (300, 3)])
def test_a_session_lasts_for_several_heartbeats(session_s: float, expected_s: float) -> None:
    assert heartbeat_s(session_s) == expected_s
    app = faust_app(load_settings(_env_file=None, kafka_session_s=session_s, watchdog_s=400), SMALL, CID)
    assert app.conf.broker_session_timeout == session_s
    assert app.conf.broker_heartbeat_interval == expected_s
    assert app.conf.broker_request_timeout >= session_s  # Faust refuses to start otherwise


async def test_who_stays_out_for_longer_than_any_rebalance_is_overdue() -> None:
    now_s = 100.0
    app = faust_app(load_settings(_env_file=None), SMALL, CID)
    membership = Membership(app, lambda: now_s)
    await app.on_partitions_assigned.send(set())
    now_s += 10 * REBALANCE_TIMEOUT_S
    assert not membership.overdue()
    await app.on_partitions_revoked.send(set())
    now_s += REBALANCE_TIMEOUT_S
    await app.on_partitions_revoked.send(set())  # coming again, it begins nothing anew
    assert not membership.overdue()
    now_s += 1
    assert membership.overdue()
    await app.on_partitions_assigned.send(set())
    assert not membership.overdue()
