"""The archive where its objects sleep in their storage class, over HTTP: asked for, waited for, verified."""

from collections.abc import AsyncIterator

import pytest

from headrace.batch.archive import move as move_module
from headrace.batch.archive.move import ArchiveReport
from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.catalog.archives import Location
from headrace.store.errors import StoreRefusedError
from tests.batch.archive.archive_samples import Two
from tests.store.glacier import SLEEPING, Glacier


class EndedError(BaseException):
    """Nobody catches it, as nobody catches the end of a process."""


@pytest.fixture
async def glacier() -> AsyncIterator[Glacier]:
    async with Glacier.serve() as served:
        yield served


@pytest.fixture
def settings(glacier: Glacier) -> Settings:
    return Settings(
        _env_file=None,
        store_endpoint=glacier.url,
        store_url="s3://hot",
        archive_url="s3://cold/old",
        archive_storage_class=SLEEPING,
        store_access_key="key",
        store_secret_key="secret",
    )  # type: ignore[call-arg]


@pytest.fixture
async def storage_class(settings: Settings) -> AsyncIterator[StorageClassStore]:
    async with StorageClassStore.open(settings) as opened:
        yield opened


@pytest.fixture
async def two(settings: Settings) -> Two:
    urls = {Location.STORE: settings.store_url, Location.ARCHIVE: settings.archive_url}
    made = Two({at: Blobs.from_settings(settings.model_copy(update={"store_url": url})) for at, url in urls.items()})
    await made.pack([b'{"ldo": %d}' % number for number in range(5)])
    await made.alone(b"a clip")
    await made.alone(b"another clip")
    return made


async def test_what_sleeps_is_asked_for_once_and_comes_when_it_is_awake(
    two: Two, glacier: Glacier, storage_class: StorageClassStore
) -> None:
    await two.mover(Location.ARCHIVE, storage_class=storage_class).run(two.there(Location.STORE))
    assert set(glacier.classes.values()) == {SLEEPING}
    assert len(glacier.objects) == 3
    with pytest.raises(StoreRefusedError):
        await two.read_all()

    for _ in range(2):
        report = ArchiveReport()
        await two.mover(Location.STORE, report, storage_class).run(two.there(Location.ARCHIVE))
        assert (report.bodies, report.waiting, report.failed) == (0, 7, {})
    assert sorted(glacier.asked) == sorted(glacier.objects)

    glacier.wake()
    report = ArchiveReport()
    await two.mover(Location.STORE, report, storage_class).run(two.there(Location.ARCHIVE))
    assert (report.bodies, report.waiting) == (7, 0)
    await two.read_all()
    assert two.there(Location.ARCHIVE) == []
    assert await two.is_tidy()


async def test_what_is_awake_comes_before_the_others(
    two: Two, glacier: Glacier, storage_class: StorageClassStore
) -> None:
    await two.mover(Location.ARCHIVE, storage_class=storage_class).run(two.there(Location.STORE))
    alone = next(row for row in two.there(Location.ARCHIVE) if row.store_offset is None)
    assert not await storage_class.is_awake(alone.store_key)
    glacier.wake()
    report = ArchiveReport()
    await two.mover(Location.STORE, report, storage_class).run(two.there(Location.ARCHIVE))
    assert (report.bodies, report.waiting) == (1, 6)
    assert [row.digest for row in two.there(Location.STORE)] == [alone.digest]


@pytest.mark.parametrize("point", [point for point in CrashPoint if point.startswith("move_")])
async def test_a_move_into_a_class_that_is_ended_there_goes_on(
    two: Two, glacier: Glacier, storage_class: StorageClassStore, point: CrashPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(local: CrashPoint) -> None:
        if local is point:
            raise EndedError

    with monkeypatch.context() as armed:
        armed.setattr(move_module, "reached", reached)
        with pytest.raises(EndedError):
            await two.mover(Location.ARCHIVE, storage_class=storage_class).run(two.there(Location.STORE))
    again = two.mover(Location.ARCHIVE, storage_class=storage_class)
    await again.delete_stale_objects()
    await again.run(two.there(Location.STORE))
    assert len(two.there(Location.ARCHIVE)) == 7
    assert set(glacier.classes.values()) == {SLEEPING}
    assert await two.is_tidy()


async def test_an_object_that_its_class_changes_is_named_by_no_row_and_stays_in_the_store(
    two: Two, glacier: Glacier, storage_class: StorageClassStore
) -> None:
    glacier.shortened_by = 1
    with pytest.raises(StoreRefusedError, match="was not moved to the storage class GLACIER"):
        await two.mover(Location.ARCHIVE, storage_class=storage_class).run(two.there(Location.STORE))
    assert two.there(Location.ARCHIVE) == []
    await two.read_all()
