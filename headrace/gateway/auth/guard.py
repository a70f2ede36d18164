"""The door: who calls, whether they may, and how often. A refusal is a problem, and a row of the audit trail."""

import asyncio
import base64
import binascii
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.principal import ANYBODY, Principal, Role
from headrace.gateway.auth.rate_limiter import RateLimit
from headrace.gateway.auth.tokens import TokenRefusedError
from headrace.gateway.problems import Problem, ProblemCode, request_id_of
from headrace.gateway.services import Here, Services, services_of
from headrace.runtime.settings import LOOPBACK

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="headrace", Basic realm="headrace"'}


async def caller_of(connection: HTTPConnection) -> Principal:
    """Return who calls.

    Raises:
        Problem: nobody that is known (401), or too often (429).
    """
    services = services_of(connection)
    if services.settings.gateway_auth == "off":
        _check_this_machine(connection)
        await limited(connection, services.limits.requests, ANYBODY)
        return ANYBODY
    try:
        caller = await _shown(connection, services)
    except Problem as problem:
        note(connection, problem.code, None)
        # Whoever guesses is slowed down by address.
        await limited(connection, services.limits.requests, None)
        raise
    await limited(connection, services.limits.requests, caller)
    return caller


async def limited(connection: HTTPConnection, limit: RateLimit, caller: Principal | None, cost: int = 1) -> None:
    """Count one more for a caller, or for an address where there is none.

    Raises:
        Problem: that was too often (429).
    """
    services = services_of(connection)
    known = caller is not None and caller is not ANYBODY
    who = caller.actor if caller is not None and known else f"address:{address_of(connection)}"
    wait_s = await services.limiter.hit(limit, who, cost)
    if wait_s is not None:
        note(connection, ProblemCode.TOO_MANY_REQUESTS, caller)
        raise Problem(
            429,
            ProblemCode.TOO_MANY_REQUESTS,
            f"too many requests: the limit is {limit.item}",
            headers={"Retry-After": str(wait_s)},
        )


def require_reach(connection: HTTPConnection, caller: Principal, site: str, source_id: str) -> None:
    """Let through who may speak for a source.

    Raises:
        Problem: the caller may not (403).
    """
    if not caller.reaches(site, source_id):
        note(connection, ProblemCode.FORBIDDEN, caller)
        raise Problem(403, ProblemCode.FORBIDDEN, "the key or token does not reach this source")


def note(connection: HTTPConnection, code: str, caller: Principal | None) -> None:
    """Add a refusal to the audit trail; the route's own path, so that nothing a caller wrote stands there."""
    services = services_of(connection)
    route = connection.scope.get("route")
    method = connection.scope.get("method", "WEBSOCKET")
    services.trail.add(
        f"{method} {getattr(route, 'path', 'other')}",
        code,
        actor=caller.actor if caller else None,
        address=address_of(connection),
        request_id=request_id_of(connection.scope),
    )


def address_of(connection: HTTPConnection) -> str:
    """Return the caller's address."""
    return connection.client.host if connection.client else "unknown"


def check_origin(connection: HTTPConnection) -> None:
    """A page of another origin may not use what the browser, or this machine, is trusted with (RFC 6455, section 10.2).

    Raises:
        Problem: it is a page of another origin, which the settings do not name (403).
    """
    origin = connection.headers.get("origin")
    if origin is None or urlsplit(origin).netloc == connection.headers.get("host"):
        return
    allowed = services_of(connection).settings.gateway_cors_origins.split(",")
    if origin not in {one.strip() for one in allowed} and "*" not in allowed:
        note(connection, ProblemCode.FORBIDDEN, None)
        raise Problem(
            403, ProblemCode.FORBIDDEN, "pages of this origin may not connect", hint="HEADRACE_GATEWAY_CORS_ORIGINS"
        )


def _check_this_machine(connection: HTTPConnection) -> None:
    """Without keys, a page in this machine's browser is all that could be a stranger.

    Raises:
        Problem: the request was sent to another name (DNS rebinding), or by a page of another origin (403).
    """
    if connection.url.hostname not in LOOPBACK:
        raise Problem(403, ProblemCode.FORBIDDEN, "without keys the gateway answers only to the names of this machine")
    check_origin(connection)


async def _at_least(role: Role, request: Request) -> Principal:
    caller = await caller_of(request)
    if not caller.is_at_least(role):
        note(request, ProblemCode.FORBIDDEN, caller)
        raise Problem(403, ProblemCode.FORBIDDEN, f"this call needs the role {role}")
    return caller


async def _device(request: Request) -> Principal:
    return await _at_least(Role.DEVICE, request)


async def _operator(request: Request) -> Principal:
    return await _at_least(Role.OPERATOR, request)


async def _admin(request: Request) -> Principal:
    return await _at_least(Role.ADMIN, request)


Device = Annotated[Principal, Depends(_device)]
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]


async def _ingest_limit(request: Request, here: Here) -> None:
    await limited(request, here.limits.ingest, None)


PerAddress = Annotated[None, Depends(_ingest_limit)]
"""The limit of POST /ingest, which counts addresses."""


async def _shown(connection: HTTPConnection, services: Services) -> Principal:
    credential = _credential(connection)
    if (parts := api_keys.parse(credential)) is not None:
        caller = await api_keys.caller_of(services.access, *parts)
        if caller is None:
            raise _unknown("the key is not good, was revoked, or is over")
        return caller
    try:
        # In a thread: an issuer's keys may have to be fetched.
        caller = await asyncio.to_thread(services.tokens.caller_of, credential)
    except TokenRefusedError as refused:
        raise _unknown(str(refused)) from None
    return await _still_good(caller, services)


async def _still_good(caller: Principal, services: Services) -> Principal:
    """A token that was traded for a key ends with it, and reaches no further than it does now."""
    kind, _, key_id = caller.actor.partition(":")
    if kind != "key":
        return caller
    row = await services.access.find_key(key_id)
    now = api_keys.as_caller(row) if row is not None else None
    if now is None:
        raise _unknown("the key that this token was traded for was revoked, or is over")
    return now


def _credential(connection: HTTPConnection) -> str:
    """Return the one key or token that is shown.

    Raises:
        Problem: there is none, or more than one, or it cannot be read.
    """
    headers = connection.headers
    shown = headers.getlist("authorization") + headers.getlist("x-api-key")
    if len(shown) != 1:
        raise _unknown("there is no key or token" if not shown else "there is more than one key or token")
    if "x-api-key" in headers:
        return shown[0].strip()
    scheme, _, value = shown[0].strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            return _password(value.strip())
        case _:
            raise _unknown("the Authorization header is neither Bearer nor Basic")


def _password(value: str) -> str:
    # A client that only knows an address can have its key there: http://headrace:KEY@host. The name does not matter.
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _unknown("the Authorization header cannot be read") from None
    return decoded.partition(":")[2]


def _unknown(why: str) -> Problem:
    return Problem(401, ProblemCode.NOT_AUTHENTICATED, why, headers=_CHALLENGE)
