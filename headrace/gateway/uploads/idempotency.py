"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a request that is repeated under its key is answered as
the first time, and nothing is done twice.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import JSONResponse

from headrace.gateway.auth.principal import Principal
from headrace.gateway.problems import Problem, ProblemCode
from headrace.runtime.errors import HeadraceError
from headrace.store.requests.access import Access, KeptAnswer

KEY_CHARACTERS_MAX = 200
HEADER = "idempotency-key"


class IdempotentRequest:
    """One request under its key; without one, everything here does nothing."""

    def __init__(self, access: Access, actor: str, key: str | None, claim: datetime | KeptAnswer | None) -> None:
        """`claim` is since when the request has its key, or what the first request under it was answered."""
        self._access = access
        self._actor = actor
        self._key = key
        self._claim = claim
        self._fingerprint: bytes | None = None
        self.is_under_way = False

    def replay(self, fingerprint: bytes) -> JSONResponse | None:
        """Return the answer of the first request; None where this is the first, whose answer is kept with the print.

        Raises:
            Problem: that one sent something else (409).
        """
        self._fingerprint = fingerprint
        kept = self._claim
        if not isinstance(kept, KeptAnswer):
            return None
        if kept.fingerprint != fingerprint:
            raise Problem(409, ProblemCode.IDEMPOTENCY_CONFLICT, "another request was sent under this Idempotency-Key")
        assert kept.status is not None and kept.answer is not None  # noqa: PT018 - both are kept at once
        return JSONResponse(orjson.loads(kept.answer), kept.status, headers={"Idempotent-Replayed": "true"})

    async def keep_pending(self, answer: JSONResponse) -> None:
        """Keep an answer that says it is on its way, once something was published that a repetition would do again.

        From here on the key is not given back, whatever fails.
        """
        self.is_under_way = True
        await self.keep(answer)

    async def keep(self, answer: JSONResponse) -> None:
        """Keep what is answered to the request that `replay` was asked for."""
        if self._key is not None and isinstance(self._claim, datetime):
            kept = KeptAnswer(self._fingerprint, answer.status_code, bytes(answer.body).decode())
            await self._access.keep_answer(self._actor, self._key, self._claim, kept)


@asynccontextmanager
async def idempotent_request(
    request: Request, access: Access, principal: Principal
) -> AsyncIterator[IdempotentRequest]:
    """Take the request's key, and give it back where the request comes to nothing.

    Where the catalog goes away in the middle, nobody can know what came of it: the key is then at work for six hours.

    Raises:
        Problem: it is no key (400), or the first request under it is still at work (409).
    """
    key = request.headers.get(HEADER)
    if key is None:
        yield IdempotentRequest(access, principal.actor, None, None)
        return
    if not 0 < len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
        raise Problem(400, ProblemCode.BAD_REQUEST, f"an Idempotency-Key has 1 to {KEY_CHARACTERS_MAX} characters")
    claim = await access.claim_answer(principal.actor, key)
    if isinstance(claim, KeptAnswer) and claim.status is None:
        raise Problem(
            409,
            ProblemCode.IDEMPOTENCY_CONFLICT,
            "a request with this Idempotency-Key is still at work",
            headers={"Retry-After": "2"},
        )
    first = IdempotentRequest(access, principal.actor, key, claim)
    try:
        yield first
    except BaseException:
        if isinstance(claim, datetime) and not first.is_under_way:
            with suppress(HeadraceError):  # it is taken over after some hours
                await access.drop_answer(principal.actor, key, claim)
        raise


def request_fingerprint(request: Request, parts: Iterable[Any]) -> bytes:
    """Return what tells a request from another: where it went, and what it said."""
    said = [request.method, request.url.path, *parts]
    return sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).digest()
