"""Logins that stand where they would be kept: within an address, or under a password's name. No I/O.

What is ingested is kept for years and read by many, so a camera's password must not come with it. A camera's login goes
into the capture request, which seals it.
"""

import re
from typing import Any

import orjson

from gateway.problems import Code, Problem

_IN_AN_ADDRESS = re.compile(rb'://[^/\s"\\]*@')
_BY_NAME = re.compile(rb'"(?:password|passwd|pwd)":"[^"]', re.IGNORECASE)


def refuse_logins(said: Any, where: str) -> None:
    """Look through what a caller said, which may be anything that JSON can hold.

    Raises:
        Problem: it holds a login (422); says nothing of it.
    """
    written = orjson.dumps(said)
    if _IN_AN_ADDRESS.search(written):
        raise _holds_login(f"{where}: an address holds a login")
    if _BY_NAME.search(written):
        raise _holds_login(f"{where}: a field holds a password")


def _holds_login(detail: str) -> Problem:
    hint = "leave it out: a camera's login goes into the capture request, which seals it, and is kept nowhere else"
    return Problem(422, Code.HOLDS_LOGIN, detail, hint=hint)
