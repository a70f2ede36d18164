"""Who calls, and how far that reaches. No I/O."""

from dataclasses import dataclass
from enum import StrEnum

EVERYWHERE = "*"


class Role(StrEnum):
    """What a caller may do: publish; also read everything in reach and ask for captures; also configure."""

    DEVICE = "device"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK = {Role.DEVICE: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `sources` are 'site/source', 'site/*' or '*'; `actor` stands in the audit trail."""

    actor: str
    role: Role
    sources: tuple[str, ...]

    def has_role(self, role: Role) -> bool:
        """Say whether the caller has this role or a higher one."""
        return _RANK[self.role] >= _RANK[role]

    def can_access(self, site: str, source_id: str) -> bool:
        """Say whether the caller may speak for, and read of, this source."""
        return any(_covers(one, site, source_id) for one in self.sources)

    @property
    def can_access_all(self) -> bool:
        """Whether no source is out of reach."""
        return EVERYWHERE in self.sources

    @property
    def only_source(self) -> tuple[str, str] | None:
        """The one source that the caller may speak for, as site and source; None where there are several."""
        match self.sources:
            case [one] if "/" in one and not one.endswith("/*"):
                site, _, source_id = one.partition("/")
                return site, source_id
            case _:
                return None


ANONYMOUS = Principal("anybody", Role.ADMIN, (EVERYWHERE,))
"""Who calls where no key is asked for, which is only on this machine."""


def check_source(text: str) -> str:
    """Return what a key may be scoped to, as it is written.

    Raises:
        ValueError: it is neither 'site/source', nor 'site/*', nor '*'.
    """
    site, _, source_id = text.partition("/")
    if text != EVERYWHERE and not (site and source_id and site != EVERYWHERE):
        raise ValueError(f"{text!r} is no source: write site/source, site/* or *")
    return text


def _covers(scope: str, site: str, source_id: str) -> bool:
    if scope == EVERYWHERE:
        return True
    of_site, _, of_source = scope.partition("/")
    return of_site == site and of_source in {EVERYWHERE, source_id}
