"""A camera's address, taken apart: the login is taken out before anything else looks at it. No I/O.

Whoever writes a password into an address does not always encode it. So every `@` that may end the login is tried, and
an address that can be read in two ways is refused: the wrong one would show a part of the password.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

URL_CHARACTERS_MAX = 2048
LOGIN_CHARACTERS_MAX = 120  # FFmpeg has room for 127 and a colon
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_PLACE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?#].*)?",
    re.DOTALL,
)
# RFC 3986's path and query, without what a shell would look at: whoever needs these writes them percent-encoded.
_TARGET = re.compile(r"(?:[A-Za-z0-9._~/?!&*+,;=:@\[\]-]|%[0-9A-Fa-f]{2})*")
# Some cameras want the login within the path.
_TELLING = re.compile(r"pass|pwd|psw|secret|token|auth|key|user", re.IGNORECASE)
_HIDDEN = "/***"


class CameraUrlError(ValueError):
    """The address is not one of a camera; says why in one sentence, without anything of the address."""


@dataclass(frozen=True, slots=True)
class CameraLogin:
    """Who logs in at a camera."""

    user: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CameraUrl:
    """Where a stream is. `target` is the path and the query; `login` is how to get in."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    login: CameraLogin | None = None

    @property
    def shown(self) -> str:
        """The address for rows, messages and logs: without login and query."""
        path = self.target.partition("?")[0]
        return f"{self.scheme}://{self.place}{_HIDDEN if _TELLING.search(path) else path}"

    @property
    def place(self) -> str:
        """Host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_secret(self) -> bool:
        """Whether there is more to it than is shown."""
        return self.login is not None or self.shown != f"{self.scheme}://{self.place}{self.target}"


def parse(text: str) -> CameraUrl:
    """Take an address apart.

    Raises:
        UrlRefused: it is none of a stream, or not written as it should be.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise CameraUrlError(f"the address has more than {URL_CHARACTERS_MAX} characters")
    if any(character.isspace() or unicodedata.category(character)[0] == "C" for character in text):
        raise CameraUrlError("the address holds a space or a control character")
    if text.startswith("-"):
        raise CameraUrlError("the address begins with a dash")
    match = _SCHEME.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise CameraUrlError("the address is not one of rtsp:// and rtsps://")
    found = list(_readings(scheme, match["rest"]))
    if not found:
        raise CameraUrlError("the address names no host, or not as it should")
    if len(found) > 1:
        raise CameraUrlError(
            "the address can be read in two ways: write @ as %40 and / as %2F in its login and its path"
        )
    return _checked(found[0])


def _readings(scheme: str, rest: str) -> Iterator[CameraUrl]:
    """Every way to read what follows the scheme."""
    for end in (-1, *(at for at, character in enumerate(rest) if character == "@")):
        place = _PLACE.fullmatch(rest[end + 1 :])
        # An @ in a path that follows a host is no end of a login unless a colon before it makes it one.
        if place is None or (end >= 0 and ":" not in rest[:end] and re.search("[/?#]", rest[:end])):
            continue
        port = int(place["port"] or DEFAULT_PORTS[scheme])
        target = (place["target"] or "").partition("#")[0]
        login = None if end < 0 else _login(rest[:end])
        yield CameraUrl(scheme, place["host"].strip("[]").lower(), port, target, login)


def _login(text: str) -> CameraLogin:
    user, _, password = text.partition(":")
    return CameraLogin(unquote(user), unquote(password))


def _checked(url: CameraUrl) -> CameraUrl:
    if not 1 <= url.port <= 65_535:
        raise CameraUrlError("the address names no port from 1 to 65535")
    if not _TARGET.fullmatch(url.target):
        raise CameraUrlError("the path or query holds characters that have to be percent-encoded")
    if url.login is not None:
        _check_login(url.login)
    return url


def _check_login(login: CameraLogin) -> None:
    if any(unicodedata.category(one)[0] == "C" for one in login.user + login.password):
        raise CameraUrlError("the login holds a control character")
    if ":" in login.user:
        raise CameraUrlError("the login's name holds a colon, which RTSP cannot carry")
    if len(quote(login.user, safe="")) + len(quote(login.password, safe="")) > LOGIN_CHARACTERS_MAX:
        raise CameraUrlError(f"the login has more than {LOGIN_CHARACTERS_MAX} characters once it is percent-encoded")
