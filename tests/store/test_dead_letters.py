from typing import Any

import pytest

from headrace.schemas.topics import INPUT_RETENTION_S
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.dead_letters import DeadLetters, LetterFilters
from headrace.store.errors import CatalogUnavailableError
from headrace.store.locks import REDRIVE_LOCK
from tests.store.store_rows import batch, id_of, letter


async def test_the_newest_come_first_and_filters_choose(catalog: Catalog, postgres_dsn: str) -> None:
    await catalog.commit(batch([], letters=[letter(number) for number in range(5)]))
    await catalog.commit(batch([], letters=[letter(9, code="too_large", value=None, site="s", source_id="c")]))
    async with DeadLetters.open(postgres_dsn) as letters:
        some = await letters.page(LetterFilters(), 4)
        assert len(some) == 4
        assert (some[0].code, some[0].value_bytes, some[0].site, some[0].state) == ("too_large", None, "s", "waiting")
        assert sorted(letter.offset for letter in await letters.page(LetterFilters(), 10)) == [0, 1, 2, 3, 4, 9]
        assert [letter.offset for letter in await letters.page(LetterFilters(code="too_large"), 10)] == [9]


async def test_a_dead_letter_comes_back_as_it_was(catalog: Catalog, postgres_dsn: str) -> None:
    kept = letter(1, headers=b'[["a", "AA=="]]')
    await catalog.commit(batch([], letters=[kept]))
    async with DeadLetters.open(postgres_dsn) as letters:
        assert await letters.letters([kept.dead_letter_id, id_of(1)]) == {kept.dead_letter_id: kept}


async def test_an_attempt_that_kafka_may_have_lost_is_claimed_again_under_its_number(
    catalog: Catalog, postgres_dsn: str, sql: Any
) -> None:
    kept = letter(1)
    attempt = (kept.dead_letter_id, 1)
    await catalog.commit(batch([], letters=[kept]))
    async with DeadLetters.open(postgres_dsn) as letters, letters.redriving() as claims:
        assert await claims.claim([attempt]) == {kept.dead_letter_id}
        await letters.published([attempt])
        await published_ago(sql, INPUT_RETENTION_S - 60)
        assert [candidate async for candidate in letters.candidates(LetterFilters())] == []
        assert await claims.claim([attempt]) == set()

        await published_ago(sql, INPUT_RETENTION_S + 60)
        (candidate,) = [candidate async for candidate in letters.candidates(LetterFilters())]
        assert candidate.ended == 0
        assert await claims.claim([attempt]) == {kept.dead_letter_id}
        await letters.published([attempt])
        assert [candidate async for candidate in letters.candidates(LetterFilters())] == []
        assert [attempt.attempt for attempt in await letters.history(kept.dead_letter_id)] == [1]


async def test_an_attempt_that_kafka_may_have_lost_keeps_no_letter_from_ending(
    catalog: Catalog, postgres_dsn: str, sql: Any
) -> None:
    kept = letter(1)
    attempt = (kept.dead_letter_id, 1)
    await catalog.commit(batch([], letters=[kept]))
    await sql.execute("update dead_letters set rejected_at = now() - interval '40 days'")
    await sql.execute("update outbox set published_at = now()")
    async with DeadLetters.open(postgres_dsn) as letters:
        async with letters.redriving() as claims:
            await claims.claim([attempt])
            await letters.published([attempt])
        await published_ago(sql, INPUT_RETENTION_S - 60)
        assert await letters.expired(30) == 0
        await published_ago(sql, INPUT_RETENTION_S + 60)
        assert await letters.expired(30) == 1
        assert await letters.expire(30) == 1
    assert await sql.fetchval("select count(*) from redrives") == 0


async def test_a_letter_that_is_gone_is_not_claimed(catalog: Catalog, postgres_dsn: str, sql: Any) -> None:
    kept, gone = letter(1), letter(2)
    await catalog.commit(batch([], letters=[kept, gone]))
    async with DeadLetters.open(postgres_dsn) as letters, letters.redriving() as claims:
        read = await letters.letters([kept.dead_letter_id, gone.dead_letter_id])
        await sql.execute("delete from dead_letters where dead_letter_id = $1", gone.dead_letter_id)
        assert await claims.claim([(read_id, 1) for read_id in read]) == {kept.dead_letter_id}
        assert await claims.claim([(gone.dead_letter_id, 1)]) == set()
    assert await sql.fetchval("select count(*) from redrives") == 1


async def test_a_redrive_that_lost_its_lock_claims_nothing(catalog: Catalog, postgres_dsn: str, sql: Any) -> None:
    kept = letter(1)
    await catalog.commit(batch([], letters=[kept]))
    async with DeadLetters.open(postgres_dsn) as letters:
        redriving = letters.redriving()
        claims = await redriving.__aenter__()
        # As with a restart of PostgreSQL: the session that holds the lock ends.
        await sql.fetchval(
            "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and objid = $1::bigint"
            " and database = (select oid from pg_database where datname = current_database())",
            REDRIVE_LOCK,
        )
        with pytest.raises(CatalogUnavailableError):
            await claims.claim([(kept.dead_letter_id, 1)])
        with pytest.raises(CatalogUnavailableError):
            await redriving.__aexit__(None, None, None)
    assert await sql.fetchval("select count(*) from redrives") == 0


async def published_ago(sql: Any, seconds: int) -> None:
    await sql.execute("update redrives set published_at = now() - $1::integer * interval '1 second'", seconds)
