"""A URL, taken apart strictly: whatever two readers could read in two ways is refused. No I/O.

A host is a name of letters, digits, hyphens and underscores, or an address in its one ordinary form. Numbers that
other programs would take for an address (0177.0.0.1, 2130706433, 127.1) are refused, and names in other scripts are
turned into what DNS carries before anything looks at them.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote, urljoin

import idna

from headrace.batch.fetch.errors import UrlRefusedError

URL_CHARACTERS_MAX = 4096
SHOWN_CHARACTERS_MAX = 300
DEFAULT_PORTS = {"http": 80, "https": 443}

_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/?#]*)(?P<target>.*)", re.DOTALL)
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last part of a host it makes the whole an address
_PAIR = re.compile(r"[^&;]+")
_TELLING = re.compile(r"pass|pwd|secret|token|auth|key|sig|credential|session", re.IGNORECASE)
# Of RFC 3986: what may stand in a path or query as it is. The others are percent-encoded.
_AS_IT_IS = "!$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class WebUrl:
    """Where something is. `host` is lower case, without brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole URL."""
        return f"{self.origin}{self.target}"

    @property
    def origin(self) -> str:
        """Scheme and place."""
        return f"{self.scheme}://{self.place}"

    @property
    def place(self) -> str:
        """Host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str | None:
        """The host where it is an address and no name."""
        return self.host if ":" in self.host or _NUMBER.fullmatch(self.host.rpartition(".")[2]) else None

    @property
    def shown(self) -> str:
        """The URL for rows, messages and results: whatever in its query may let somebody in is hidden."""
        path, mark, query = self.target.partition("?")
        return f"{self.origin}{path}{mark}{_PAIR.sub(_shown_pair, query)}"


def parse(text: str) -> WebUrl:
    """Take a URL apart; what follows a '#' is dropped, as it is never sent.

    Raises:
        UrlRefused: it is not one that is fetched. The error never repeats a login.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise UrlRefusedError(f"the URL has more than {URL_CHARACTERS_MAX} characters")
    if any(character.isspace() or unicodedata.category(character)[0] == "C" for character in text):
        raise UrlRefusedError("the URL holds a space or a control character")
    if "\\" in text:
        raise UrlRefusedError("the URL holds a backslash, which programs read in two ways")
    match = _WHOLE.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise UrlRefusedError("the URL is not one of http:// and https://")
    if "@" in match["place"]:
        raise UrlRefusedError("the URL holds a login, which is neither used nor kept")
    place = _PLACE.fullmatch(match["place"])
    if place is None:
        raise UrlRefusedError("the URL names no host, or not as it should")
    port = int(place["port"] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise UrlRefusedError("the URL names no port from 1 to 65535")
    host = _six(place["six"]) if place["six"] else _name(place["name"])
    target = quote(match["target"].partition("#")[0], safe=_AS_IT_IS)
    return WebUrl(scheme, host, port, target if target.startswith("/") else f"/{target}")


def follow(url: WebUrl, location: str) -> WebUrl:
    """Return where a redirect leads.

    Raises:
        UrlRefused: not to a URL that is fetched.
    """
    return parse(urljoin(url.text, location))


def shown_text(text: str) -> str:
    """Return any text that was given as a URL so that it can be shown, whether it is one or not."""
    try:
        return parse(text).shown[:SHOWN_CHARACTERS_MAX]
    except UrlRefusedError:
        # Whoever reads it in another way than we do may see a login in front of any @.
        before, at, rest = text.rpartition("@")
        hidden = f"***@{rest}" if at else before + rest
        path, mark, _ = hidden.partition("?")
        return f"{path}{mark and '?***'}"[:SHOWN_CHARACTERS_MAX].encode(errors="replace").decode()


def _six(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise UrlRefusedError("the URL's host is in brackets, but no IPv6 address") from None


def _name(text: str) -> str:
    if "%" in text:
        raise UrlRefusedError("the URL's host is percent-encoded")
    try:
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        raise UrlRefusedError("the URL's host is no name that DNS can carry") from None
    name = name.removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name) or any(len(part) > 63 for part in name.split(".")):
        raise UrlRefusedError("the URL's host is no name that DNS can carry")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _four(name)
    return name


def _four(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise UrlRefusedError("the URL's host is a number, but no IPv4 address in its ordinary form") from None


def _shown_pair(pair: re.Match[str]) -> str:
    name, equals, _ = pair[0].partition("=")
    return f"{name}=***" if equals and _TELLING.search(unquote(name)) else pair[0]
