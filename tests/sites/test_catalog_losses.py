"""What a mirror knows of its sources settles what workers have noticed."""

import time

import pytest

from headrace.runtime.settings import Settings
from headrace.sites import catalog_losses
from headrace.sites.catalog_losses import CatalogLosses
from headrace.sites.link_probe import LinkStatus, PartitionLag
from headrace.sites.memory import Loss
from headrace.sites.topology import Flow
from headrace.store.catalog.mirror_losses import MirrorLosses, MirrorLossReason, SitePartition

pytestmark = pytest.mark.stack

TOPIC = "edge.frames.v1"
FLOW = Flow.model_validate({"from": "factory-a", "to": "central"})
GAP, RETENTION = MirrorLossReason.GAP, MirrorLossReason.RETENTION


async def test_gaps_are_settled_by_what_the_source_still_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_losses, "EVERY_S", 0.0)
    names = {"link": FLOW.name, "topic": TOPIC}
    status = LinkStatus(
        link=FLOW.name,
        lags=tuple(PartitionLag(topic=TOPIC, partition=n, position=90, first=50, end=90) for n in range(2)),
        losses=(Loss(**names, partition=1, first=30, until=50, at=time.time()),),
    )
    dsn = settings.postgres_dsn.get_secret_value()
    async with MirrorLosses.open(dsn, statement_s_max=20.0) as losses:
        for partition, first, last in ((0, 60, 69), (0, 40, 44), (1, 30, 49)):
            await losses.record_mirror_loss(SitePartition("factory-a", TOPIC, partition), first, last, GAP)
        began_s = time.monotonic()
        settling = CatalogLosses(settings)
        await settling.settle([(FLOW, status)], began_s)
        await settling.settle([(FLOW, status)], began_s)
        listed = sorted(
            (loss.partition, loss.first_offset, loss.last_offset, loss.reason) for loss in await losses.listed()
        )
    assert listed == [(0, 40, 44, RETENTION), (1, 30, 49, RETENTION)], "60 to 69 were markers"


async def test_a_catalog_that_does_not_answer_is_said_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog_losses, "EVERY_S", 0.0)
    away = settings.model_copy(update={"postgres_dsn": type(settings.postgres_dsn)("postgresql://me@127.0.0.1:1/x")})
    settling = CatalogLosses(away)
    for _ in range(2):
        await settling.settle([(FLOW, LinkStatus(link=FLOW.name))], time.monotonic())
    assert capsys.readouterr().err.count(" waiting ") == 1
