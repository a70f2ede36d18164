"""Logins that stand where they would be kept: within an address, or under a password's name. No I/O.

What is ingested is kept for years and read by many, so a camera's password must not come with it. A camera's login goes
into the capture request, which seals it.
"""

import re
from collections.abc import Iterator
from typing import Any

from headrace.gateway.problems import Problem, ProblemCode

_NAMES = frozenset({"password", "passwd", "pwd"})
_BEFORE_A_HOST = re.compile(r"://[^/?#\s]*@")
# A name with what is no port behind it: a password that itself holds what would end it (`user:a/b@host`).
_BEFORE_A_PASSWORD = re.compile(r"://[^/?#:@\s\[]+:(?!\d{1,5}(?:[/?#]|$))")
_LINE_END = re.compile(r"[\r\n]")


def refuse_credentials(said: Any, where: str) -> None:
    """Look through what a caller said, which may be anything that JSON can hold.

    Raises:
        Problem: it holds a login (422); says nothing of it.
    """
    for name, value in _values(said):
        if isinstance(value, str) and _has_login(value):
            raise _holds_login(f"{where}: an address holds a login")
        if value and name.lower() in _NAMES:
            raise _holds_login(f"{where}: a field holds a password")


def _has_login(text: str) -> bool:
    """Say whether an address in a text has a login; takes as long as the text is long, whatever stands in it."""
    if "://" not in text or "@" not in text:
        return False
    if _BEFORE_A_HOST.search(text):
        return True
    # Where nothing ends the first password of a line, nothing ends a later one.
    begun = ((line, _BEFORE_A_PASSWORD.search(line)) for line in _LINE_END.split(text))
    return any(found is not None and "@" in line[found.end() :] for line, found in begun)


def _values(said: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with the name that it has, from the outside in; what is in a list has none."""
    waiting = [("", said)]
    while waiting:
        name, value = waiting.pop()
        yield name, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list | tuple):
            waiting += (("", one) for one in value)


def _holds_login(detail: str) -> Problem:
    hint = "leave it out: a camera's login goes into the capture request, which seals it, and is kept nowhere else"
    return Problem(422, ProblemCode.HOLDS_LOGIN, detail, hint=hint)
