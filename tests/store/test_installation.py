"""Catalog, Kafka and store belong to one installation: anything else is refused by name, and so is an older catalog."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.outbox import Outbox
from headrace.store.errors import CatalogRevertedError
from headrace.store.installation import (
    CatalogIdentity,
    adopt,
    catalog_identity,
    kafka_identity,
    mark_store,
    require_installation,
)
from tests.servers import mark_own

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack_settings: Settings, postgres_dsn: str) -> Settings:
    """The stack's, with a catalog and a part of the bucket of this test's own."""
    dsn = type(stack_settings.postgres_dsn)(postgres_dsn)
    return stack_settings.model_copy(
        update={"postgres_dsn": dsn, "store_url": f"{stack_settings.store_url}/{uuid4().hex}"}
    )


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    return Blobs.from_settings(settings)


@pytest.fixture
async def mine(settings: Settings) -> CatalogIdentity:
    identity = await mark_own(settings)
    assert identity.complete
    return identity


async def change(settings: Settings, statement: str) -> None:
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    await connection.execute(statement)
    await connection.close()


async def refused(settings: Settings, blobs: Blobs) -> HeadraceError:
    """Why nothing may start, and why `headrace init` does not adopt it either."""
    with pytest.raises(HeadraceError) as raised:
        await adopt(settings, blobs)
    with pytest.raises(HeadraceError) as raised_too:
        await require_installation(settings, blobs)
    assert raised.value.what == raised_too.value.what
    assert raised.value.exit_code == Exit.USAGE
    assert raised.value.hint
    return raised.value


async def test_what_belongs_together_may_start_and_is_adopted_once(
    settings: Settings, blobs: Blobs, mine: CatalogIdentity
) -> None:
    await require_installation(settings, blobs)
    await require_installation(settings, blobs, has_catalog=False)
    assert await adopt(settings, blobs) == await adopt(settings, blobs) == mine.installation_id
    kafka = await asyncio.to_thread(kafka_identity, settings)
    assert (kafka.cluster_id, kafka.mark) == (mine.kafka_cluster_id, mine.mark)


async def test_two_installations_on_one_kafka_are_refused(
    settings: Settings, blobs: Blobs, mine: CatalogIdentity
) -> None:
    other = uuid4()
    await change(settings, f"update installation set installation_id = '{other}'")
    error = await refused(settings, blobs)
    assert str(mine.installation_id) in error.what
    assert str(other) in error.what
    assert error.where == settings.kafka_bootstrap


async def test_another_kafka_on_one_catalog_is_refused(settings: Settings, blobs: Blobs, mine: CatalogIdentity) -> None:
    await change(settings, "update installation set kafka_cluster_id = 'elsewhere'")
    error = await refused(settings, blobs)
    assert mine.kafka_cluster_id in error.what
    assert "elsewhere" in error.what


async def test_another_store_is_refused(settings: Settings, blobs: Blobs, mine: CatalogIdentity) -> None:
    empty = Blobs.from_settings(settings.model_copy(update={"store_url": f"{settings.store_url}/elsewhere"}))
    assert "belongs to no installation" in (await refused(settings, empty)).what
    foreign = uuid4()
    await mark_store(blobs, replace(mine.mark, installation_id=foreign))
    assert str(foreign) in (await refused(settings, blobs)).what
    with pytest.raises(HeadraceError, match=str(foreign)):
        await require_installation(settings, blobs, has_catalog=False)


async def test_a_new_catalog_on_a_kafka_that_is_taken_is_refused(
    settings: Settings, blobs: Blobs, mine: CatalogIdentity
) -> None:
    await change(settings, "delete from installation")
    with pytest.raises(HeadraceError, match=str(mine.installation_id)) as raised:
        await adopt(settings, blobs)
    assert raised.value.exit_code == Exit.USAGE
    assert await catalog_identity(settings) is None
    with pytest.raises(HeadraceError, match="no identity") as raised:
        await require_installation(settings, blobs)
    assert "headrace init" in raised.value.hint


async def test_an_adoption_that_was_interrupted_goes_on(
    settings: Settings, blobs: Blobs, mine: CatalogIdentity
) -> None:
    await change(settings, "update installation set complete = false")
    elsewhere = settings.model_copy(update={"store_url": f"{settings.store_url}/fresh"})
    fresh = Blobs.from_settings(elsewhere)
    with pytest.raises(HeadraceError, match="no identity"):
        await require_installation(elsewhere, fresh)
    assert await adopt(elsewhere, fresh) == mine.installation_id
    await require_installation(elsewhere, fresh)


@pytest.mark.parametrize(
    ("older", "why"),
    [
        ("update installation set timeline = timeline + 1", "promoted since"),
        ("update installation set system_identifier = '1'", "another PostgreSQL server"),
        ("update installation set epoch = epoch - 1", "it is of epoch 0, and a later one is 1"),
        ("update installation set recovering_since = now()", "a recovery was interrupted"),
    ],
)
async def test_a_catalog_that_may_be_older_starts_nothing(
    settings: Settings, blobs: Blobs, mine: CatalogIdentity, older: str, why: str
) -> None:
    await change(settings, older)
    with pytest.raises(CatalogRevertedError, match=why) as raised:
        await require_installation(settings, blobs)
    assert raised.value.exit_code == Exit.REVERTED
    assert "headrace recover" in raised.value.hint
    assert mine.complete


@pytest.mark.parametrize("opening", [Catalog.open, Outbox.open])
async def test_whoever_writes_looks_at_the_server_of_each_new_connection(settings: Settings, opening: object) -> None:
    await change(settings, "update installation set timeline = timeline + 1")
    with pytest.raises(CatalogRevertedError, match="promoted since"):
        await opening(settings.postgres_dsn.get_secret_value())  # type: ignore[operator]
