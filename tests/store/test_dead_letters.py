from store.catalog import Catalog
from store.dead_letters import DeadLetters, LetterFilters
from tests.store.store_rows import batch, id_of, letter


async def test_the_newest_come_first_and_filters_choose(catalog: Catalog, postgres_dsn: str) -> None:
    await catalog.commit(batch([], letters=[letter(number) for number in range(5)]))
    await catalog.commit(batch([], letters=[letter(9, code="too_large", value=None, site="s", source_id="c")]))
    async with DeadLetters.open(postgres_dsn) as letters:
        some = await letters.page(LetterFilters(), 4)
        assert len(some) == 4
        assert (some[0].code, some[0].value_bytes, some[0].site, some[0].state) == ("too_large", None, "s", "waiting")
        assert sorted(one.offset for one in await letters.page(LetterFilters(), 10)) == [0, 1, 2, 3, 4, 9]
        assert [one.offset for one in await letters.page(LetterFilters(code="too_large"), 10)] == [9]


async def test_a_dead_letter_comes_back_as_it_was(catalog: Catalog, postgres_dsn: str) -> None:
    kept = letter(1, headers=b'[["a", "AA=="]]')
    await catalog.commit(batch([], letters=[kept]))
    async with DeadLetters.open(postgres_dsn) as letters:
        assert await letters.letters([kept.dead_letter_id, id_of(1)]) == {kept.dead_letter_id: kept}
