"""What a host asks of programs, as the headers of its answers say it. No I/O.

`tdm-reservation: 1` is the W3C community group's TDM Reservation Protocol; `noai` and `noimageai` are what image hosts
send in X-Robots-Tag.
"""

from collections.abc import Iterable

_NO = frozenset({"noai", "noimageai"})


def opts_out(robots_tags: Iterable[str], reservations: Iterable[str], agent: str) -> bool:
    """Say whether the values of X-Robots-Tag or tdm-reservation ask us not to take what they come with."""
    if any(value.strip() == "1" for value in reservations):
        return True
    return any(_forbids(value, token_of(agent)) for value in robots_tags)


def token_of(agent: str) -> str:
    """Return the name that a robots.txt knows an agent by: what stands before the version, in lower case."""
    return agent.partition("/")[0].strip().lower()


def _forbids(tag: str, token: str) -> bool:
    # "agent: rule, rule" holds for that agent alone.
    named, colon, rules = tag.rpartition(":")
    if colon and named.strip().lower() not in {token, "*"}:
        return False
    return any(rule.strip().lower() in _NO for rule in rules.split(","))
