"""Principals: their roles, and the sources within their scope. No I/O."""

from dataclasses import dataclass
from enum import StrEnum

EVERYWHERE = "*"


class Role(StrEnum):
    """A device publishes; an operator also reads its whole scope and requests captures; an admin also configures."""

    DEVICE = "device"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK = {Role.DEVICE: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity of a request. `sources` are 'site/source', 'site/*' or '*'; the audit log has `actor`."""

    actor: str
    role: Role
    sources: tuple[str, ...]
    is_trusted: bool = False  # by its address, without a key

    def has_role(self, role: Role) -> bool:
        """Return whether the principal has this role or a higher one."""
        return _RANK[self.role] >= _RANK[role]

    def can_access(self, site: str, source_id: str) -> bool:
        """Return whether the principal may publish for a source, and read its records."""
        return any(_covers(scope, site, source_id) for scope in self.sources)

    @property
    def can_access_all(self) -> bool:
        """Whether every source is in scope."""
        return EVERYWHERE in self.sources

    @property
    def only_site(self) -> str | None:
        """The only site in scope; None where there are several."""
        sites = {scope.partition("/")[0] for scope in self.sources}
        return sites.pop() if len(sites) == 1 and EVERYWHERE not in sites else None

    @property
    def only_source(self) -> tuple[str, str] | None:
        """The only source in scope, as site and source id; None where there are several."""
        match self.sources:
            case [scope] if "/" in scope and not scope.endswith("/*"):
                site, _, source_id = scope.partition("/")
                return site, source_id
            case _:
                return None


ANONYMOUS = Principal("anybody", Role.ADMIN, (EVERYWHERE,))
"""The principal of every request while authentication is off, which is possible only on a loopback address."""


def check_source(text: str) -> str:
    """Return a scope of an API key as it is written.

    Raises:
        ValueError: it is neither 'site/source', nor 'site/*', nor '*'.
    """
    site, _, source_id = text.partition("/")
    if text != EVERYWHERE and not (site and source_id and site != EVERYWHERE):
        raise ValueError(f"{text!r} is not a source: write site/source, site/* or *")
    return text


def _covers(scope: str, site: str, source_id: str) -> bool:
    if scope == EVERYWHERE:
        return True
    scope_site, _, scope_source = scope.partition("/")
    return scope_site == site and scope_source in {EVERYWHERE, source_id}
