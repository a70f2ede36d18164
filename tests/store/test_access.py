"""Who has an Idempotency-Key, when the request that had it is thought dead and is not."""

import time

import asyncpg
import pytest

from headrace.store.requests.access import Access, AuditRow, KeptAnswer

pytestmark = pytest.mark.stack

NEW = KeptAnswer(b"n" * 32, 200, '{"from":"the new one"}', "/new")
OLD = KeptAnswer(b"o" * 32, 200, '{"from":"the old one"}', None)


async def test_who_took_a_key_over_is_not_disturbed_by_who_had_it(access: Access, postgres_dsn: str) -> None:
    old = await access.claim_answer("me", "key")
    assert await access.claim_answer("me", "key") == KeptAnswer(None, None, None, None)
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("update idempotency set alive_at = alive_at - interval '61 seconds'")
    await connection.close()
    new = await access.claim_answer("me", "key")
    assert not isinstance(old, KeptAnswer)
    assert not isinstance(new, KeptAnswer)

    await access.drop_answer("me", "key", old)
    await access.keep_answer("me", "key", old, OLD)
    assert await access.claim_answer("me", "key") == KeptAnswer(None, None, None, None), "the new one is at work"
    await access.keep_answer("me", "key", new, NEW)
    assert await access.claim_answer("me", "key") == NEW
    await access.drop_answer("me", "key", new)
    assert await access.claim_answer("me", "key") == NEW, "what was answered stays"


async def test_a_claim_is_held_for_as_long_as_it_is_renewed(access: Access, postgres_dsn: str) -> None:
    first = await access.claim_answer("me", "key")
    assert not isinstance(first, KeptAnswer)
    connection = await asyncpg.connect(postgres_dsn)
    aged = "update idempotency set created_at = created_at - interval '1 day', alive_at = alive_at - interval '1 day'"
    since = await connection.fetchval(f"{aged} returning created_at")
    await access.renew_claim("me", "key", first)
    assert await connection.fetchval("select alive_at < now() - interval '1 hour' from idempotency"), "not its claim"
    await access.renew_claim("me", "key", since)
    await connection.close()
    assert await access.claim_answer("me", "key") == KeptAnswer(None, None, None, None), "a long upload goes on"


async def test_audit_rows_are_kept_for_their_days(access: Access) -> None:
    now_s = time.time()
    await access.audit(
        [AuditRow(now_s - days * 86_400, None, None, f"{days} days", None, None) for days in (31, 29, 0)]
    )
    await access.expire_audit(30)
    rows = await access.list_audit(24 * 365, 10, actor=None, address=None)
    assert {row.action for row in rows} == {"29 days", "0 days"}


async def test_a_request_that_came_to_nothing_gives_its_key_back(access: Access) -> None:
    first = await access.claim_answer("me", "key")
    assert not isinstance(first, KeptAnswer)
    await access.drop_answer("me", "key", first)
    assert not isinstance(await access.claim_answer("me", "key"), KeptAnswer)
    assert not isinstance(await access.claim_answer("another", "key"), KeptAnswer), "each caller has keys of its own"
