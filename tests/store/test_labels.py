import asyncio
from typing import Any

from headrace.schemas.catalog_rows import Labelled
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.labels import Labels, LabelVersion
from headrace.store.locks import ENTER_LOCK
from tests.store.store_rows import batch, id_of


async def test_a_record_that_is_erased_before_its_label_is_written_gets_none(
    catalog: Catalog, postgres_dsn: str, sql: Any
) -> None:
    await catalog.commit(batch([1, 2]))
    rows = [Labelled(id_of(number), "x", {"f": "x"}, {}) for number in (1, 2)]
    async with Labels.open(postgres_dsn) as labels:
        await labels.begin(LabelVersion("v", "00" * 32, ("f",)))
        erasing = sql.transaction()
        await erasing.start()
        await sql.execute("select pg_advisory_xact_lock($1)", ENTER_LOCK)
        await sql.execute("delete from records where record_id = $1", id_of(1))
        adding = asyncio.create_task(labels.add("v", rows))
        await asyncio.sleep(0.3)
        assert not adding.done(), "it waits for the erasure to end"
        await erasing.commit()
        await adding
        assert [labelled.record_id async for labelled in labels.of("v")] == [id_of(2)]
