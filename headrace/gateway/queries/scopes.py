"""Restrict queries to the principal's scope."""

from starlette.requests import HTTPConnection

from headrace.gateway.auth.guard import audit_refusal
from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.problems import Problem, ProblemCode


def scopes_of(principal: Principal) -> tuple[str, ...] | None:
    """Return the principal's scopes for a query; None means everything."""
    return None if principal.can_access_all else principal.sources


def listed_source(
    connection: HTTPConnection, principal: Principal, site: str | None, source_id: str | None
) -> tuple[str | None, str | None]:
    """Return the site and source of a list; with one source in scope the request need not name it.

    Raises:
        Problem: the request must name a source, or names one that is out of scope (403).
    """
    if principal.can_access_all:
        return site, source_id
    only_source = principal.only_source
    if only_source is not None and source_id is None and site in {None, only_source[0]}:
        return only_source
    if (missing := _missing(principal, site, source_id)) is not None:
        raise _forbidden(connection, principal, missing)
    if not any(_overlaps(scope, site, source_id) for scope in principal.sources):
        raise _forbidden(connection, principal, "the API key or token has no access to this source")
    return site, source_id


def _missing(principal: Principal, site: str | None, source_id: str | None) -> str | None:
    if site is None and any(scope.endswith("/*") for scope in principal.sources):
        return "the API key or token has access to whole sites: name one with the filter `site`"
    if principal.role is Role.DEVICE and source_id is None and f"{site}/*" not in principal.sources:
        return "the API key or token has access to several sources: name one with the filters `site` and `source_id`"
    return None


def _overlaps(scope: str, site: str | None, source_id: str | None) -> bool:
    """Return whether a scope and the filters have a source in common."""
    scope_site, _, scope_source = scope.partition("/")
    return site in {None, scope_site} and (source_id is None or scope_source in {"*", source_id})


def _forbidden(connection: HTTPConnection, principal: Principal, detail: str) -> Problem:
    audit_refusal(connection, ProblemCode.FORBIDDEN, principal)
    return Problem(403, ProblemCode.FORBIDDEN, detail)
