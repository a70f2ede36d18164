"""Refuse credentials in what is ingested: in a URL, or in a field for a password. No I/O.

Ingested data is stored for years and read by many, so it must not hold a camera's password. A camera's credentials
belong into the capture request, which encrypts them.
"""

import re
from collections.abc import Iterator
from typing import Any

from headrace.gateway.problems import Problem, ProblemCode

_NAMES = frozenset({"password", "passwd", "pwd"})
_USERINFO = re.compile(r"://[^/?#\s]*@")
# A name followed by no port: the start of a password that holds a delimiter (`user:a/b@host`).
_PASSWORD_START = re.compile(r"://[^/?#:@\s\[]+:(?!\d{1,5}(?:[/?#]|$))")
_LINE_END = re.compile(r"[\r\n]")


def refuse_credentials(content: Any, where: str) -> None:
    """Search a JSON value for credentials.

    Raises:
        Problem: it holds credentials (422); the problem does not repeat them.
    """
    for name, value in _values(content):
        if isinstance(value, str) and _has_credentials(value):
            raise _credentials_found(f"{where}: a URL holds credentials")
        if value and name.lower() in _NAMES:
            raise _credentials_found(f"{where}: a field holds a password")


def _has_credentials(text: str) -> bool:
    """Return whether a URL in a text has credentials, in time linear in its length."""
    if "://" not in text or "@" not in text:
        return False
    if _USERINFO.search(text):
        return True
    # Only the first match of a line counts: an '@' after a later match is also after the first one.
    matches = ((line, _PASSWORD_START.search(line)) for line in _LINE_END.split(text))
    return any(match is not None and "@" in line[match.end() :] for line, match in matches)


def _values(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield every nested value with its name; the items of a list have none."""
    stack = [("", content)]
    while stack:
        name, value = stack.pop()
        yield name, value
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list | tuple):
            stack += (("", item) for item in value)


def _credentials_found(detail: str) -> Problem:
    hint = "remove them: a camera's credentials belong into the capture request, which encrypts them"
    return Problem(422, ProblemCode.HOLDS_LOGIN, detail, hint=hint)
