"""A strict URL parser: it refuses every URL that two parsers could interpret differently. Pure.

A host is a name of letters, digits, hyphens and underscores, or an IP address in its canonical form. Numbers that other
programs would interpret as an address (0177.0.0.1, 2130706433, 127.1) are refused, and international names are encoded
with IDNA before they are checked.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote, urljoin

import idna

from headrace.batch.fetch.errors import UrlRefusedError
from headrace.runtime.addresses import authority_of

URL_CHARACTERS_MAX = 4096
SHOWN_CHARACTERS_MAX = 300
DEFAULT_PORTS = {"http": 80, "https": 443}

_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label, it makes the host an address
_PAIR = re.compile(r"[^&;]+")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|auth|key|sig|credential|session", re.IGNORECASE)
# The characters of RFC 3986 that are not percent-encoded in a path or query.
_SAFE = "!$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A parsed URL. `host` is lower case, without brackets; `target` is path and query."""

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
        """The scheme and the authority."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The host, and the port unless it is the default."""
        return authority_of(self.host, self.port, DEFAULT_PORTS[self.scheme])

    @property
    def ip_address(self) -> str | None:
        """The host if it is an IP address."""
        return self.host if ":" in self.host or _NUMBER.fullmatch(self.host.rpartition(".")[2]) else None

    @property
    def redacted(self) -> str:
        """The URL for rows, messages and results, with the values of secrets in its query replaced by `***`."""
        path, mark, query = self.target.partition("?")
        return f"{self.origin}{path}{mark}{_PAIR.sub(_redact_pair, query)}"


def parse_url(text: str) -> WebUrl:
    """Parse a URL and drop its fragment, which is never sent.

    Raises:
        UrlRefusedError: it is not accepted. The error never shows credentials.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise UrlRefusedError(f"the URL has more than {URL_CHARACTERS_MAX} characters")
    if any(character.isspace() or unicodedata.category(character)[0] == "C" for character in text):
        raise UrlRefusedError("the URL contains a space or a control character")
    if "\\" in text:
        raise UrlRefusedError("the URL contains a backslash, which is ambiguous")
    match = _WHOLE.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise UrlRefusedError("the URL is neither http:// nor https://")
    if "@" in match["authority"]:
        raise UrlRefusedError("the URL contains credentials, which are not accepted")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise UrlRefusedError("the URL has no valid host")
    port = int(authority["port"] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise UrlRefusedError("the URL's port is not from 1 to 65535")
    host = _ipv6_host(authority["ipv6"]) if authority["ipv6"] else _named_host(authority["name"])
    target = quote(match["target"].partition("#")[0], safe=_SAFE)
    return WebUrl(scheme, host, port, target if target.startswith("/") else f"/{target}")


def resolve_redirect(url: WebUrl, location: str) -> WebUrl:
    """Return the URL of a redirect, in which spaces and bytes beyond ASCII may stand as they are, as browsers take it.

    Raises:
        UrlRefusedError: it is not accepted.
    """
    return parse_url(urljoin(url.text, _readable(location)))


def _readable(location: str) -> str:
    """Return a header's text without white space around it; bytes that are not UTF-8 and spaces are percent-encoded."""
    raw = location.strip().encode(errors="surrogateescape").replace(b" ", b"%20")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return quote(raw, safe=f"{_SAFE}%#")


def redact_url_text(text: str) -> str:
    """Return a text given as a URL without secrets, also if it is not an accepted URL."""
    try:
        return parse_url(text).redacted[:SHOWN_CHARACTERS_MAX]
    except UrlRefusedError:
        # Another parser could find credentials before any @.
        before, at, rest = text.rpartition("@")
        hidden = f"***@{rest}" if at else before + rest
        path, mark, _ = hidden.partition("?")
        return f"{path}{mark and '?***'}"[:SHOWN_CHARACTERS_MAX].encode(errors="replace").decode()


def _ipv6_host(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise UrlRefusedError("the URL's host is in brackets, but is not an IPv6 address") from None


def _named_host(text: str) -> str:
    if "%" in text:
        raise UrlRefusedError("the URL's host is percent-encoded")
    try:
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        raise UrlRefusedError("the URL's host is not a valid DNS name") from None
    name = name.removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name) or any(len(part) > 63 for part in name.split(".")):
        raise UrlRefusedError("the URL's host is not a valid DNS name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return _ipv4_host(name)
    return name


def _ipv4_host(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise UrlRefusedError("the URL's host is a number, but not an IPv4 address in canonical form") from None


def _redact_pair(pair: re.Match[str]) -> str:
    name, equals, _ = pair[0].partition("=")
    return f"{name}=***" if equals and _SECRET_NAME.search(unquote(name)) else pair[0]
