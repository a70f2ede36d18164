"""A camera's URL: parsing it, hiding its secrets, and encrypting them for the capture workers.

Users do not always percent-encode the password in a URL. The parser therefore tries every `@` that may end the login
and rejects a URL that has more than one reading: the wrong one would show a part of the password.

Login and target are encrypted with AES-256-GCM; HKDF-SHA-256 derives the key from the secret that gateways and capture
workers share. The request's id is the associated data, so a ciphertext is not valid for another request.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest as hmac
from urllib.parse import quote, unquote
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from headrace.runtime.addresses import authority_of

URL_CHARACTERS_MAX = 2048
LOGIN_CHARACTERS_MAX = 512
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?#].*)?",
    re.DOTALL,
)
# The path and query of RFC 3986, and brackets, which cameras have too. Others must be percent-encoded.
_TARGET = re.compile(r"(?:[A-Za-z0-9._~/?!$&'()*+,;=:@\[\]-]|%[0-9A-Fa-f]{2})*")
# Some cameras take the login within the path.
_SECRET_IN_PATH = re.compile(r"pass|pwd|psw|secret|token|auth|key|user", re.IGNORECASE)
_REDACTED_PATH = "/***"

_VERSION = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class CameraUrlError(ValueError):
    """Raised for an invalid camera URL; the message says why and repeats nothing of the URL."""


class DecryptionError(Exception):
    """Raised for a ciphertext of another secret, of another request, or that was modified."""


@dataclass(frozen=True, slots=True)
class CameraLogin:
    """User name and password of a camera."""

    user: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CameraUrl:
    """The URL of a stream. `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    login: CameraLogin | None = None

    @property
    def redacted(self) -> str:
        """The URL without login and query, for rows, messages and logs."""
        path = self.target.partition("?")[0]
        return f"{self.scheme}://{self.authority}{_REDACTED_PATH if _SECRET_IN_PATH.search(path) else path}"

    @property
    def authority(self) -> str:
        """Host, and port unless it is the scheme's default."""
        return authority_of(self.host, self.port, DEFAULT_PORTS[self.scheme])

    @property
    def has_secrets(self) -> bool:
        """Whether the redacted URL leaves something out."""
        return self.login is not None or self.redacted != f"{self.scheme}://{self.authority}{self.target}"


class CredentialCipher:
    """Encrypts what a camera's URL must not show, with keys derived from the shared secret."""

    def __init__(self, secret: str) -> None:
        """Derive the keys."""
        # These labels are part of the stored format.
        self._cipher = AESGCM(_derive_key(secret, b"headrace camera seal 1"))
        self._fingerprint_key = _derive_key(secret, b"headrace camera mark 1")

    def encrypt(self, request_id: UUID, url: CameraUrl) -> bytes:
        """Return the login and the target of a URL, encrypted for one request."""
        login = None if url.login is None else [url.login.user, url.login.password]
        plaintext = orjson.dumps({"target": url.target, "login": login})
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext, request_id.bytes)

    def decrypt(self, request_id: UUID, sealed: bytes, redacted: CameraUrl) -> CameraUrl:
        """Return the complete URL for a redacted one.

        Raises:
            DecryptionError: the ciphertext is not valid for this secret and request.
        """
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _VERSION:
                raise DecryptionError
            fields = orjson.loads(self._cipher.decrypt(nonce, ciphertext, request_id.bytes))
        except (InvalidTag, ValueError):
            raise DecryptionError from None
        login = None if fields["login"] is None else CameraLogin(*fields["login"])
        return CameraUrl(redacted.scheme, redacted.host, redacted.port, fields["target"], login)

    def fingerprint(self, text: str) -> str:
        """Return a keyed digest (HMAC-SHA-256) that distinguishes texts and does not let one be guessed."""
        return hmac(self._fingerprint_key, text.encode(errors="surrogatepass"), sha256).hex()


def parse_camera_url(text: str) -> CameraUrl:
    """Parse the URL of a stream.

    Raises:
        CameraUrlError: the URL is invalid or ambiguous.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise CameraUrlError(f"the URL has more than {URL_CHARACTERS_MAX} characters")
    if any(character.isspace() or _is_control(character) for character in text):
        raise CameraUrlError("the URL contains a space or a control character")
    if text.startswith("-"):
        raise CameraUrlError("the URL starts with a dash")
    match = _SCHEME.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise CameraUrlError("the URL's scheme is neither rtsp:// nor rtsps://")
    candidates = list(_candidates(scheme, match["rest"]))
    if not candidates:
        raise CameraUrlError("the URL has no valid host")
    if len(candidates) > 1:
        raise CameraUrlError("the URL is ambiguous: write @ as %40 and / as %2F in its login and its path")
    return _validated(candidates[0])


def _candidates(scheme: str, rest: str) -> Iterator[CameraUrl]:
    """Yield every reading of what follows the scheme."""
    for end in (-1, *(index for index, character in enumerate(rest) if character == "@")):
        match = _AUTHORITY.fullmatch(rest[end + 1 :])
        # An @ in a path after a host does not end a login unless a colon precedes it.
        if match is None or (end >= 0 and ":" not in rest[:end] and re.search("[/?#]", rest[:end])):
            continue
        port = int(match["port"] or DEFAULT_PORTS[scheme])
        target = (match["target"] or "").partition("#")[0]
        login = None if end < 0 else _parse_login(rest[:end])
        yield CameraUrl(scheme, match["host"].strip("[]").lower(), port, target, login)


def _parse_login(text: str) -> CameraLogin:
    user, _, password = text.partition(":")
    return CameraLogin(unquote(user), unquote(password))


def _validated(url: CameraUrl) -> CameraUrl:
    if not 1 <= url.port <= 65_535:
        raise CameraUrlError("the URL's port is not between 1 and 65535")
    if not _TARGET.fullmatch(url.target):
        raise CameraUrlError("the URL's path or query contains characters that must be percent-encoded")
    if url.login is not None:
        _check_login(url.login)
    return url


def _check_login(login: CameraLogin) -> None:
    if any(_is_control(character) for character in login.user + login.password):
        raise CameraUrlError("the login contains a control character")
    if ":" in login.user:
        raise CameraUrlError("the login's user name contains a colon, which RTSP does not allow")
    if len(quote(login.user, safe="")) + len(quote(login.password, safe="")) > LOGIN_CHARACTERS_MAX:
        raise CameraUrlError(f"the percent-encoded login has more than {LOGIN_CHARACTERS_MAX} characters")


def _is_control(character: str) -> bool:
    return unicodedata.category(character)[0] == "C"


def _derive_key(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=purpose).derive(secret.encode())
