"""The door: who calls, whether they may, and how often. A refusal is a problem, and a row of the audit trail."""

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.audit_log import AuditLog
from headrace.gateway.auth.principal import ANONYMOUS, Principal, Role
from headrace.gateway.auth.rate_limiter import RateLimit, RequestLimiter, mebibytes
from headrace.gateway.auth.tokens import InvalidTokenError, TokenVerifier
from headrace.gateway.problems import Problem, ProblemCode, request_id_of
from headrace.runtime.settings import LOOPBACK, Settings
from headrace.store.requests.access import Access

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="headrace", Basic realm="headrace"'}


@dataclass(frozen=True, slots=True)
class Guard:
    """What authentication, rate limits and the audit log need."""

    settings: Settings
    access: Access
    tokens: TokenVerifier
    limiter: RequestLimiter
    audit_log: AuditLog


def guard_of(connection: HTTPConnection) -> Guard:
    """Return the guard of the application that handles this connection."""
    guard: Guard = connection.app.state.components[Guard]
    return guard


async def authenticate(connection: HTTPConnection) -> Principal:
    """Return who calls.

    Raises:
        Problem: nobody that is known (401), or too often (429).
    """
    guard = guard_of(connection)
    if guard.settings.gateway_auth == "off":
        _check_this_machine(connection)
        await limit_requests(connection, ANONYMOUS)
        return ANONYMOUS
    try:
        principal = await _shown(connection, guard)
    except Problem as problem:
        audit_refusal(connection, problem.code, None)
        # Whoever guesses is slowed down by address.
        await limit_requests(connection, None)
        raise
    await limit_requests(connection, principal)
    return principal


async def limit_requests(connection: HTTPConnection, principal: Principal | None) -> None:
    """Count a request of a caller, or of an address where there is none.

    Raises:
        Problem: too many requests (429).
    """
    await _limit(connection, guard_of(connection).limiter.limits.requests, principal)


async def limit_upload_bytes(connection: HTTPConnection, principal: Principal, size_bytes: int) -> None:
    """Count the bytes that a caller uploads.

    Raises:
        Problem: too many bytes within the hour (429).
    """
    await limit_upload_mebibytes(connection, principal, mebibytes(size_bytes))


async def limit_upload_mebibytes(connection: HTTPConnection, principal: Principal, count: int) -> None:
    """Count the mebibytes that a caller uploads; raises as `limit_upload_bytes`."""
    await _limit(connection, guard_of(connection).limiter.limits.upload_mib, principal, count)


async def _limit(connection: HTTPConnection, limit: RateLimit, principal: Principal | None, cost: int = 1) -> None:
    known = principal is not None and principal is not ANONYMOUS
    who = principal.actor if principal is not None and known else f"address:{address_of(connection)}"
    wait_s = await guard_of(connection).limiter.hit(limit, who, cost)
    if wait_s is not None:
        audit_refusal(connection, ProblemCode.TOO_MANY_REQUESTS, principal)
        raise Problem(
            429,
            ProblemCode.TOO_MANY_REQUESTS,
            f"too many requests: the limit is {limit.item}",
            headers={"Retry-After": str(wait_s)},
        )


def require_source_access(connection: HTTPConnection, principal: Principal, site: str, source_id: str) -> None:
    """Let through who may speak for a source.

    Raises:
        Problem: the caller may not (403).
    """
    if not principal.can_access(site, source_id):
        audit_refusal(connection, ProblemCode.FORBIDDEN, principal)
        raise Problem(403, ProblemCode.FORBIDDEN, "the key or token does not reach this source")


def audit_refusal(connection: HTTPConnection, code: str, principal: Principal | None) -> None:
    """Add a refusal to the audit trail; the route's own path, so that nothing a caller wrote stands there."""
    route = connection.scope.get("route")
    method = connection.scope.get("method", "WEBSOCKET")
    guard_of(connection).audit_log.add(
        f"{method} {getattr(route, 'path', 'other')}",
        code,
        actor=principal.actor if principal else None,
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
    allowed = guard_of(connection).settings.gateway_cors_origins.split(",")
    if origin not in {one.strip() for one in allowed} and "*" not in allowed:
        audit_refusal(connection, ProblemCode.FORBIDDEN, None)
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
    principal = await authenticate(request)
    if not principal.has_role(role):
        audit_refusal(request, ProblemCode.FORBIDDEN, principal)
        raise Problem(403, ProblemCode.FORBIDDEN, f"this call needs the role {role}")
    return principal


async def _device(request: Request) -> Principal:
    return await _at_least(Role.DEVICE, request)


async def _operator(request: Request) -> Principal:
    return await _at_least(Role.OPERATOR, request)


async def _admin(request: Request) -> Principal:
    return await _at_least(Role.ADMIN, request)


Device = Annotated[Principal, Depends(_device)]
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]


async def _ingest_limit(request: Request) -> None:
    await _limit(request, guard_of(request).limiter.limits.ingest, None)


PerAddress = Annotated[None, Depends(_ingest_limit)]
"""The limit of POST /ingest, which counts addresses."""


async def _shown(connection: HTTPConnection, guard: Guard) -> Principal:
    credential = _credential(connection)
    if (parts := api_keys.parse(credential)) is not None:
        principal = await api_keys.authenticate(guard.access, *parts)
        if principal is None:
            raise _unknown("the key is not good, was revoked, or is over")
        return principal
    try:
        # In a thread: an issuer's keys may have to be fetched.
        principal = await asyncio.to_thread(guard.tokens.authenticate, credential)
    except InvalidTokenError as refused:
        raise _unknown(str(refused)) from None
    return await _still_good(principal, guard)


async def _still_good(principal: Principal, guard: Guard) -> Principal:
    """A token that was traded for a key ends with it, and reaches no further than it does now."""
    kind, _, key_id = principal.actor.partition(":")
    if kind != "key":
        return principal
    row = await guard.access.find_key(key_id)
    now = api_keys.principal_of_row(row) if row is not None else None
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
