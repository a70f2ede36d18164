"""Authenticate and authorize requests, limit their rate, and log refusals.

A request without valid credentials is answered with 401, one beyond its scope with 403, and one beyond a limit with
429; each is in the audit log, as are requests that change something.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from headrace.gateway.auth import api_keys
from headrace.gateway.auth.audit_log import AuditLog, address_group
from headrace.gateway.auth.principal import ANONYMOUS, Principal, Role
from headrace.gateway.auth.rate_limiter import Allowance, RateLimit, RequestLimiter, mebibytes
from headrace.gateway.auth.tokens import InvalidTokenError, TokenVerifier
from headrace.gateway.problems import Problem, ProblemCode, request_id_of
from headrace.runtime.addresses import Network, is_in
from headrace.runtime.gateway_settings import LOOPBACK
from headrace.runtime.settings import Settings
from headrace.store.requests.access import Access

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="headrace", Basic realm="headrace"'}


@dataclass(frozen=True, slots=True)
class Guard:
    """What authentication, rate limits and the audit log need."""

    settings: Settings
    access: Access
    tokens: TokenVerifier
    limiter: RequestLimiter
    audit_log: AuditLog
    trusted: Sequence[tuple[Network, str]] = ()


def guard_of(connection: HTTPConnection) -> Guard:
    """Return the guard of the application that handles this connection."""
    guard: Guard = connection.app.state.components[Guard]
    return guard


async def authenticate(connection: HTTPConnection) -> Principal:
    """Return the principal that the request's API key or token identifies.

    Raises:
        Problem: the credentials are missing or invalid (401), or there are too many requests (429).
    """
    guard = guard_of(connection)
    if guard.settings.gateway_auth == "off":
        _require_local(connection)
        await limit_requests(connection, ANONYMOUS)
        return ANONYMOUS
    try:
        principal = _trusted(guard, connection) or await _identified(guard, connection)
    except Problem as problem:
        audit_refusal(connection, problem.code, None)
        if problem.status_code == 401:
            await guard.limiter.hit(guard.limiter.limits.guesses, address_group(_address_of(connection)))
        raise
    connection.scope["state"]["on_response"] = partial(_audit_change, connection, principal)
    await limit_requests(connection, principal)
    return principal


async def _identified(guard: Guard, connection: HTTPConnection) -> Principal:
    await _require_guesses_left(connection)
    credential = _credential(connection)
    _refuse_foreign_page(connection)
    return await _principal_of(guard, credential)


def _trusted(guard: Guard, connection: HTTPConnection) -> Principal | None:
    """Return the principal of a client without a key in a network of HEADRACE_GATEWAY_TRUST.

    A browser is none: a page of any site could let it send requests.
    """
    names = ("authorization", "x-api-key", "origin", "sec-fetch-site")
    if not guard.trusted or any(name in connection.headers for name in names):
        return None
    address = _address_of(connection)
    for network, site in guard.trusted:
        if is_in(address, network):
            return Principal(f"trusted:{address_group(address)}", Role.DEVICE, (f"{site}/*",), is_trusted=True)
    return None


async def limit_requests(connection: HTTPConnection, principal: Principal | None) -> None:
    """Count a request of a principal, or of an address where the principal is unknown.

    Raises:
        Problem: too many requests (429).
    """
    await _limit(connection, guard_of(connection).limiter.limits.requests, principal)


async def limit_upload_bytes(connection: HTTPConnection, principal: Principal, size_bytes: int) -> None:
    """Count the bytes that a principal uploads.

    Raises:
        Problem: too many bytes within the hour (429).
    """
    await limit_upload_mebibytes(connection, principal, mebibytes(size_bytes))


async def limit_upload_mebibytes(connection: HTTPConnection, principal: Principal, count: int) -> None:
    """Count the mebibytes that a principal uploads; raises as `limit_upload_bytes`."""
    await _limit(connection, guard_of(connection).limiter.limits.upload_mib, principal, count)


def require_source_access(connection: HTTPConnection, principal: Principal, site: str, source_id: str) -> None:
    """Require that a principal may publish for a source.

    Raises:
        Problem: the source is out of its scope (403).
    """
    if not principal.can_access(site, source_id):
        audit_refusal(connection, ProblemCode.FORBIDDEN, principal)
        raise Problem(403, ProblemCode.FORBIDDEN, "the API key or token has no access to this source")


def audit_refusal(connection: HTTPConnection, code: str, principal: Principal | None) -> None:
    """Add a refused request to the audit log, by its route's path: the log holds no text from the client."""
    _audit(connection, code, principal)


def _audit_change(connection: HTTPConnection, principal: Principal, status: int) -> None:
    """Add a request to the audit log that may have changed something."""
    if connection.scope.get("method") in _CHANGING and status < 400:
        _audit(connection, None, principal)


def _audit(connection: HTTPConnection, code: str | None, principal: Principal | None) -> None:
    route = connection.scope.get("route")
    method = connection.scope.get("method", "WEBSOCKET")
    guard_of(connection).audit_log.add(
        f"{method} {getattr(route, 'path', 'other')}",
        code,
        actor=principal.actor if principal else None,
        address=_address_of(connection),
        request_id=request_id_of(connection.scope),
    )


def check_origin(connection: HTTPConnection) -> None:
    """Require that a browser's request comes from an allowed origin (RFC 6455, section 10.2).

    Raises:
        Problem: the origin is neither this gateway nor in HEADRACE_GATEWAY_CORS_ORIGINS (403).
    """
    origin = connection.headers.get("origin")
    if origin is None or urlsplit(origin).netloc == connection.headers.get("host"):
        return
    allowed = guard_of(connection).settings.gateway_cors_origins.split(",")
    if origin not in {entry.strip() for entry in allowed} and "*" not in allowed:
        audit_refusal(connection, ProblemCode.FORBIDDEN, None)
        raise Problem(
            403, ProblemCode.FORBIDDEN, "the origin is not allowed", hint="add it to HEADRACE_GATEWAY_CORS_ORIGINS"
        )


async def _require_guesses_left(connection: HTTPConnection) -> None:
    """Require that an address has not guessed too often, before a key is looked up.

    Raises:
        Problem: it sent too many invalid credentials (429).
    """
    limiter = guard_of(connection).limiter
    allowance = await limiter.hit(limiter.limits.guesses, address_group(_address_of(connection)), cost=0)
    if not allowance.within:
        raise _too_many(allowance)


def _refuse_foreign_page(connection: HTTPConnection) -> None:
    """Refuse a password that a browser may have added to a request of another site's page (RFC 7617, section 4).

    Raises:
        Problem: the origin is not allowed, or the browser says that the request comes from another site (403).
    """
    if not connection.headers.get("authorization", "").strip().lower().startswith("basic"):
        return
    check_origin(connection)
    if connection.headers.get("sec-fetch-site") == "cross-site" and "origin" not in connection.headers:
        raise Problem(403, ProblemCode.FORBIDDEN, "a page of another site sent the request")


async def _limit(connection: HTTPConnection, limit: RateLimit, principal: Principal | None, cost: int = 1) -> None:
    is_known = principal is not None and principal is not ANONYMOUS
    subject = (
        principal.actor if principal is not None and is_known else f"address:{address_group(_address_of(connection))}"
    )
    allowance = await guard_of(connection).limiter.hit(limit, subject, cost)
    if not allowance.within:
        audit_refusal(connection, ProblemCode.TOO_MANY_REQUESTS, principal)
        raise _too_many(allowance)
    # The response tells the limit that was checked last; an upload's bytes are, after the number of requests.
    connection.scope["state"]["rate_limit"] = [
        (name.lower().encode(), value.encode()) for name, value in allowance.headers().items()
    ]


_LIMIT_HINTS = {
    "requests": "wait, or have the operator raise HEADRACE_GATEWAY_REQUESTS_PER_MINUTE",
    "guesses": "check the API key; after too many invalid ones an address has to wait",
    "ingest": "use POST /api/v1/ingest/upload, which this limit does not count, or have the operator raise "
    "HEADRACE_GATEWAY_INGEST_PER_MINUTE",
    "upload_mib": "wait, or have the operator raise HEADRACE_GATEWAY_UPLOAD_MIB_PER_HOUR",
}


def _too_many(allowance: Allowance) -> Problem:
    return Problem(
        429,
        ProblemCode.TOO_MANY_REQUESTS,
        f"too many requests: the limit is {allowance.limit.item}",
        hint=_LIMIT_HINTS[allowance.limit.name],
        headers={"Retry-After": str(allowance.reset_s), **allowance.headers()},
    )


def _address_of(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client else "unknown"


def _require_local(connection: HTTPConnection) -> None:
    """Without authentication, refuse requests that a web page of another origin may have sent.

    Raises:
        Problem: the request names another host (DNS rebinding), or comes from another origin (403).
    """
    if connection.url.hostname not in LOOPBACK:
        raise Problem(
            403, ProblemCode.FORBIDDEN, "without authentication the gateway answers only to loopback host names"
        )
    check_origin(connection)


async def _require_role(role: Role, request: Request, *, or_trusted: bool = False) -> Principal:
    principal = await authenticate(request)
    if not (principal.has_role(role) or (or_trusted and principal.is_trusted)):
        audit_refusal(request, ProblemCode.FORBIDDEN, principal)
        raise Problem(403, ProblemCode.FORBIDDEN, f"the role {role} is required")
    return principal


async def _device(request: Request) -> Principal:
    return await _require_role(Role.DEVICE, request)


async def _operator(request: Request) -> Principal:
    return await _require_role(Role.OPERATOR, request)


async def _capturer(request: Request) -> Principal:
    # The old clients of a trusted network request captures too.
    return await _require_role(Role.OPERATOR, request, or_trusted=True)


async def _ingest_limit(request: Request) -> None:
    await _limit(request, guard_of(request).limiter.limits.ingest, None, cost=0)


async def count_ingest(request: Request) -> None:
    """Count a POST /ingest of an address that is about to be accepted; a refused one does not count.

    Raises:
        Problem: too many requests (429).
    """
    limiter = guard_of(request).limiter
    allowance = await limiter.hit(limiter.limits.ingest, f"address:{address_group(_address_of(request))}")
    if not allowance.within:
        audit_refusal(request, ProblemCode.TOO_MANY_REQUESTS, None)
        raise _too_many(allowance)


Device = Annotated[Principal, Depends(_device)]
Operator = Annotated[Principal, Depends(_operator)]
Capturer = Annotated[Principal, Depends(_capturer)]
PerAddress = Annotated[None, Depends(_ingest_limit)]
"""The limit of POST /ingest, which `count_ingest` counts by address."""


async def _principal_of(guard: Guard, credential: str) -> Principal:
    if (parts := api_keys.parse(credential)) is not None:
        principal = await api_keys.authenticate(guard.access, *parts)
        if principal is None:
            raise _unauthenticated("the API key is invalid, revoked or expired")
        return principal
    try:
        # In a thread: the issuer's keys may have to be fetched.
        principal = await asyncio.to_thread(guard.tokens.authenticate, credential)
    except InvalidTokenError as error:
        raise _unauthenticated(str(error)) from None
    return await _current_principal(guard, principal)


async def _current_principal(guard: Guard, principal: Principal) -> Principal:
    """Return a token's principal with its API key's current scope; a token is invalid once its key is."""
    kind, _, key_id = principal.actor.partition(":")
    if kind != "key":
        return principal
    row = await guard.access.find_key(key_id)
    current = api_keys.principal_of_row(row) if row is not None else None
    if current is None:
        raise _unauthenticated("the API key of this token was revoked or has expired")
    return current


def _credential(connection: HTTPConnection) -> str:
    """Return the API key or token of a request.

    Raises:
        Problem: the request has none, several, or one that is malformed (401).
    """
    headers = connection.headers
    values = headers.getlist("authorization") + headers.getlist("x-api-key")
    if len(values) != 1:
        raise _unauthenticated("an API key or token is required" if not values else "send one API key or token")
    if "x-api-key" in headers:
        return values[0].strip()
    scheme, _, value = values[0].strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            return _basic_password(value.strip())
        case _:
            raise _unauthenticated("the Authorization header must use the scheme Bearer or Basic")


def _basic_password(value: str) -> str:
    # Clients that only accept a URL have the key in it: http://headrace:KEY@host. The user name is ignored.
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _unauthenticated("the Authorization header is malformed") from None
    return decoded.partition(":")[2]


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, ProblemCode.NOT_AUTHENTICATED, detail, headers=_CHALLENGE)
