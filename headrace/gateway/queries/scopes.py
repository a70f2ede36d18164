"""How far a caller reads."""

from starlette.requests import HTTPConnection

from headrace.gateway.auth.guard import audit_refusal
from headrace.gateway.auth.principal import Principal, Role
from headrace.gateway.problems import Problem, ProblemCode


def scopes_of(principal: Principal) -> tuple[str, ...] | None:
    """Return what the caller reaches, as the catalog asks for it; None is everything."""
    return None if principal.can_access_all else principal.sources


def listed_source(
    connection: HTTPConnection, principal: Principal, site: str | None, source_id: str | None
) -> tuple[str | None, str | None]:
    """Return the site and source that a list is for; who reaches one source alone need not name it.

    Raises:
        Problem: the caller has to say which of those it reaches, or names one that it does not reach (403).
    """
    if principal.can_access_all:
        return site, source_id
    only = principal.only_source
    if only is not None and source_id is None and site in {None, only[0]}:
        return only
    if (missing := _missing(principal, site, source_id)) is not None:
        raise _refused(connection, principal, missing)
    if not any(_meets(scope, site, source_id) for scope in principal.sources):
        raise _refused(connection, principal, "the key or token does not reach this source")
    return site, source_id


def _missing(principal: Principal, site: str | None, source_id: str | None) -> str | None:
    if site is None and any(scope.endswith("/*") for scope in principal.sources):
        return "the key or token reaches whole sites: say which one with the filter `site`"
    if principal.role is Role.DEVICE and source_id is None and f"{site}/*" not in principal.sources:
        return "the key or token reaches several sources: say which one with the filters `site` and `source_id`"
    return None


def _meets(scope: str, site: str | None, source_id: str | None) -> bool:
    """Say whether something of a scope is left by the filters."""
    of_site, _, of_source = scope.partition("/")
    return site in {None, of_site} and (source_id is None or of_source in {"*", source_id})


def _refused(connection: HTTPConnection, principal: Principal, why: str) -> Problem:
    audit_refusal(connection, ProblemCode.FORBIDDEN, principal)
    return Problem(403, ProblemCode.FORBIDDEN, why)
