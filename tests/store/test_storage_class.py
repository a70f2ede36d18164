"""Storage classes, against a server of the tests' own that answers as S3 does."""

from collections.abc import AsyncIterator

import pytest

from headrace.runtime.settings import Settings
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.errors import BlobMissingError, StoreRefusedError, StoreUnavailableError
from tests.store.glacier import Glacier

SETTINGS = {
    "store_access_key": "key",
    "store_secret_key": "canary-secret",
    "archive_url": "s3://cold/old",
    "archive_storage_class": "GLACIER",
}


@pytest.fixture
async def glacier() -> AsyncIterator[Glacier]:
    async with Glacier.serve() as served:
        served.objects = {"cold/old/a": b"abc", "cold/old/b": b"bcd"}
        served.classes = {"cold/old/a": "STANDARD", "cold/old/b": "GLACIER"}
        yield served


@pytest.fixture
async def storage_class(glacier: Glacier) -> AsyncIterator[StorageClassStore]:
    settings = Settings(_env_file=None, store_endpoint=glacier.url, **SETTINGS)  # type: ignore[call-arg,arg-type]
    async with StorageClassStore.open(settings) as opened:
        yield opened


async def test_an_object_comes_into_its_class_once(glacier: Glacier, storage_class: StorageClassStore) -> None:
    await storage_class.freeze("a")
    await storage_class.freeze("a")  # a second copy would be refused: the object sleeps by now
    assert glacier.classes["cold/old/a"] == "GLACIER"
    assert glacier.objects["cold/old/a"] == b"abc"


async def test_an_object_that_changes_on_the_way_is_refused(glacier: Glacier, storage_class: StorageClassStore) -> None:
    glacier.shortened_by = 1
    with pytest.raises(StoreRefusedError, match="was not moved to the storage class GLACIER"):
        await storage_class.freeze("a")


async def test_a_sleeping_object_is_asked_for_once_and_is_awake_when_its_restore_has_ended(
    glacier: Glacier, storage_class: StorageClassStore
) -> None:
    assert await storage_class.is_awake("a")
    assert not await storage_class.is_awake("b")
    assert not await storage_class.is_awake("b")
    assert glacier.asked == ["cold/old/b"]
    glacier.wake()
    assert await storage_class.is_awake("b")


async def test_a_restore_that_another_asks_for_meanwhile_is_as_good(
    glacier: Glacier, storage_class: StorageClassStore
) -> None:
    glacier.has_others = True
    assert not await storage_class.is_awake("b")
    assert glacier.asked == []


@pytest.mark.server
async def test_faults_are_named_without_secrets(glacier: Glacier, storage_class: StorageClassStore) -> None:
    with pytest.raises(BlobMissingError):
        await storage_class.is_awake("absent")
    glacier.status = 403
    with pytest.raises(StoreRefusedError) as refused:
        await storage_class.freeze("a")
    assert "canary" not in str(refused.value)
    glacier.status = 503
    with pytest.raises(StoreUnavailableError):
        await storage_class.is_awake("a")
