"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a repeated request gets the response of the first one,
and is not processed again.
"""

import asyncio
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
from headrace.store.requests.access import CLAIM_S, Access, KeptAnswer

KEY_CHARACTERS_MAX = 200
HEADER = "idempotency-key"


class IdempotentRequest:
    """A request with an idempotency key; without a key, nothing is stored or replayed."""

    def __init__(self, access: Access, actor: str, key: str | None, claim: datetime | KeptAnswer | None) -> None:
        """`claim` is when this request claimed its key, or the stored response of the first request with it."""
        self._access = access
        self._actor = actor
        self._key = key
        self._claim = claim
        self._fingerprint: bytes | None = None
        self.is_pending = False

    def replay(self, fingerprint: bytes) -> JSONResponse | None:
        """Return the response of the first request, or None where this is the first one.

        Raises:
            Problem: the first request had another fingerprint (409).
        """
        self._fingerprint = fingerprint
        kept = self._claim
        if not isinstance(kept, KeptAnswer):
            return None
        if kept.fingerprint != fingerprint:
            raise Problem(409, ProblemCode.IDEMPOTENCY_CONFLICT, "the Idempotency-Key was used for another request")
        assert kept.status is not None and kept.answer is not None  # noqa: PT018 - both are stored together
        location = {} if kept.location is None else {"Location": kept.location}
        headers = {"Idempotent-Replayed": "true", **location}
        return JSONResponse(orjson.loads(kept.answer), kept.status, headers=headers)

    async def keep_pending(self, answer: JSONResponse) -> None:
        """Store a response with the status `accepted`, before a failure could make the client publish an event again.

        From here on the key is not released.
        """
        self.is_pending = True
        await self.keep(answer)

    async def keep(self, answer: JSONResponse) -> None:
        """Store the response for the fingerprint that `replay` was called with."""
        if self._key is not None and isinstance(self._claim, datetime):
            text, location = bytes(answer.body).decode(), answer.headers.get("location")
            kept = KeptAnswer(self._fingerprint, answer.status_code, text, location)
            await self._access.keep_answer(self._actor, self._key, self._claim, kept)


@asynccontextmanager
async def idempotent_request(
    request: Request, access: Access, principal: Principal
) -> AsyncIterator[IdempotentRequest]:
    """Claim the request's idempotency key while it is processed, and release it if the request fails.

    The claim is renewed meanwhile. If the gateway ends, or the catalog becomes unavailable, the result is unknown, and
    the key stays claimed for CLAIM_S.

    Raises:
        Problem: the key is invalid (400), or the first request with it is still being processed (409).
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
            "a request with this Idempotency-Key is being processed",
            headers={"Retry-After": "2"},
        )
    first = IdempotentRequest(access, principal.actor, key, claim)
    renewal = asyncio.create_task(_renew(access, principal.actor, key, claim)) if isinstance(claim, datetime) else None
    try:
        yield first
    except BaseException:
        if isinstance(claim, datetime) and not first.is_pending:
            with suppress(HeadraceError):  # the claim expires
                await access.drop_answer(principal.actor, key, claim)
        raise
    finally:
        if renewal is not None:
            renewal.cancel()


async def _renew(access: Access, actor: str, key: str, since: datetime) -> None:
    while True:
        await asyncio.sleep(CLAIM_S / 4)
        with suppress(HeadraceError):  # the next one may succeed
            await access.renew_claim(actor, key, since)


def request_fingerprint(request: Request, parts: Iterable[Any]) -> bytes:
    """Return a digest of a request's method, path and content."""
    content = [request.method, request.url.path, *parts]
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
