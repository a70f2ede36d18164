"""Requests under an Idempotency-Key that fail before and after something was published."""

import pytest
from fastapi import Request
from fastapi.responses import JSONResponse

from headrace.gateway.auth.principal import ANONYMOUS
from headrace.gateway.problems import Problem
from headrace.gateway.uploads.idempotency import idempotent_request
from headrace.store.requests.access import Access

pytestmark = pytest.mark.stack

REQUEST = Request({"type": "http", "headers": [(b"idempotency-key", b"one")]})
PRINT = b"p" * 32


class Broken(Exception):  # noqa: N818 - what happened in the middle
    """The request ended by something else."""


async def test_what_failed_before_anything_was_published_may_be_tried_again(access: Access) -> None:
    for _ in range(2):
        with pytest.raises(Broken):  # noqa: PT012
            async with idempotent_request(REQUEST, access, ANONYMOUS) as first:
                assert first.replay(PRINT) is None
                raise Broken


async def test_what_failed_after_it_was_published_is_answered_and_not_done_again(access: Access) -> None:
    with pytest.raises(Broken):  # noqa: PT012
        async with idempotent_request(REQUEST, access, ANONYMOUS) as first:
            assert first.replay(PRINT) is None
            await first.keep_pending(JSONResponse({"status": "accepted"}, 202))
            raise Broken
    async with idempotent_request(REQUEST, access, ANONYMOUS) as again:
        answer = again.replay(PRINT)
        with pytest.raises(Problem, match="another request"):
            again.replay(b"q" * 32)
    assert answer is not None
    assert (answer.status_code, bytes(answer.body)) == (202, b'{"status":"accepted"}')


async def test_what_came_of_it_is_the_answer(access: Access) -> None:
    async with idempotent_request(REQUEST, access, ANONYMOUS) as first:
        assert first.replay(PRINT) is None
        await first.keep_pending(JSONResponse({"status": "accepted"}, 202))
        await first.keep(JSONResponse({"status": "ingested"}, 200, headers={"Location": "/status"}))
    async with idempotent_request(REQUEST, access, ANONYMOUS) as again:
        answer = again.replay(PRINT)
    assert answer is not None
    assert (answer.status_code, bytes(answer.body)) == (200, b'{"status":"ingested"}')
    assert (answer.headers["Location"], answer.headers["Idempotent-Replayed"]) == ("/status", "true")
