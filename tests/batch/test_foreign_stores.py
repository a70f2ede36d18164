"""No command that writes does so where catalog and store belong to different installations, or during a recovery."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from headrace.batch.archive.job import archive, restore
from headrace.batch.erase.run import ErasureRequest, erase
from headrace.batch.fetch.client import IngestClient
from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.batch.maintenance.jobs import collect, expire
from headrace.batch.redrive import RedrivePublisher, RedriveRun
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.archives import ArchiveSelection
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.dead_letters import DeadLetters, LetterFilters
from headrace.store.catalog.erasures import Target
from headrace.store.errors import CatalogRevertedError
from tests.batch.batch_samples import Line, frame
from tests.servers import mark_own, own_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

Write: TypeAlias = Callable[[Settings], Awaitable[Any]]
KEPT = frame(uuid4().hex)


async def erase_one(settings: Settings) -> None:
    target = Target(record_ids=(record_id(Kind.FRAME, KEPT.sha256),))
    await erase(settings, ErasureRequest(target, "test", "a test"), sign=lambda _id, _report: None)


async def restore_all(settings: Settings) -> None:
    await restore(settings, ArchiveSelection())


async def repair(settings: Settings) -> None:
    await open_and_check(settings, Blobs.from_settings(settings), FsckOptions(repair=True))


async def redrive(settings: Settings) -> None:
    async with DeadLetters.open(settings.postgres_dsn.get_secret_value()) as letters:
        run = RedriveRun(letters, Blobs.from_settings(settings), now_us=0, attempts_max=3)
        await run.run(LetterFilters(), RedrivePublisher(settings, 1000))


async def fetch(settings: Settings) -> None:
    IngestClient(settings=settings).close()


MOVES: list[Write] = [archive, restore_all]
WRITES: list[Write] = [*MOVES, erase_one, repair, redrive, fetch, expire, collect]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A store and an archive that no other test has."""
    return own_store(settings).model_copy(update={"archive_url": f"{settings.store_url}/{uuid4().hex}"})


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_another_bucket_is_refused(
    settings: Settings, line: Line, catalog: Catalog, sql: Any, write: Write
) -> None:
    await line.take(KEPT)
    elsewhere = settings.model_copy(update={"store_url": f"{settings.store_url}/elsewhere"})
    with pytest.raises(HeadraceError, match="this store belongs to no installation"):
        await write(elsewhere)
    assert await sql.fetchval("select count(*) from records") == 1
    assert await sql.fetchval("select count(*) from tombstones") == 0
    await mark_own(elsewhere)
    await write(elsewhere)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_an_older_catalog_is_refused(settings: Settings, sql: Any, write: Write) -> None:
    await sql.execute("update installation set epoch = epoch - 1")
    with pytest.raises(CatalogRevertedError):
        await write(settings)


@pytest.mark.parametrize("move", [*MOVES, erase_one], ids=lambda write: write.__name__)
async def test_nothing_moves_while_partitions_are_ingested_again(settings: Settings, sql: Any, move: Write) -> None:
    await sql.execute("insert into recovery_targets (topic, partition, next_offset) values ('edge.frames.v1', 0, 10)")
    with pytest.raises(HeadraceError, match="still being ingested again"):
        await move(settings)
