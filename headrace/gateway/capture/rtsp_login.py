"""Answers a camera's login: Digest (RFC 7616, 2617 and 2069), and Basic where nothing else is offered. No I/O."""

import base64
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import algorithms_available, new
from typing import Self
from urllib.parse import quote
from urllib.request import parse_http_list

_HASHES = {
    algorithm: name
    for algorithm, name in (("SHA-512-256", "sha512_256"), ("SHA-256", "sha256"), ("MD5", "md5"))
    if name in algorithms_available
}
"""By strength, the strongest first."""
_SESSION = "-SESS"
# A new challenge: its scheme stands before the first parameter.
_BEGIN = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9-]*)(?:\s+(?P<rest>[A-Za-z][A-Za-z0-9_*-]*\s*=.*))?", re.DOTALL)


@dataclass(slots=True)
class CameraChallenge:
    """A challenge of a camera that can be answered; `fields` has its parameters by lower-case names."""

    fields: Mapping[str, str]
    algorithm: str | None
    """In upper case, without `-sess`; None for Basic."""
    cnonce: str = field(default_factory=lambda: secrets.token_hex(16))
    count: int = 0

    @classmethod
    def strongest(cls, headers: Iterable[str]) -> Self | None:
        """Return the strongest challenge in WWW-Authenticate headers, or None if none can be answered."""
        offered = [
            cls(fields, algorithm) for fields in _challenges(headers) if (algorithm := _algorithm_of(fields)) != ""
        ]
        order = [*_HASHES, None]
        return min(offered, key=lambda challenge: order.index(challenge.algorithm), default=None)

    @property
    def is_stale(self) -> bool:
        """Whether the camera says that only the nonce was too old."""
        return self.fields.get("stale", "").lower() == "true"

    def authorization(self, login: tuple[str, str], method: str, uri: str, body: bytes = b"") -> str:
        """Return the value of the header Authorization for one request."""
        user, password = login
        if self.algorithm is None:
            return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.count += 1
        realm, nonce = self.fields.get("realm", ""), self.fields["nonce"]
        secret = self._hash(f"{user}:{realm}:{password}".encode())
        if self._is_session:
            secret = self._hash(f"{secret}:{nonce}:{self.cnonce}".encode())
        qop, count = self._qop, f"{self.count:08x}"
        what = f"{method}:{uri}" + (f":{self._hash(body)}" if qop == "auth-int" else "")
        middle = f"{nonce}:{count}:{self.cnonce}:{qop}" if qop else nonce
        response = self._hash(f"{secret}:{middle}:{self._hash(what.encode())}".encode())
        parameters = [
            self._user(user, realm),
            f"realm={_quoted(realm)}",
            f"nonce={_quoted(nonce)}",
            f"uri={_quoted(uri)}",
            f'response="{response}"',
        ]
        if "algorithm" in self.fields:
            parameters.append(f"algorithm={self.fields['algorithm']}")
        if "opaque" in self.fields:
            parameters.append(f"opaque={_quoted(self.fields['opaque'])}")
        if qop or self._is_session:
            parameters.append(f'cnonce="{self.cnonce}"')
        if qop:
            parameters += [f"qop={qop}", f"nc={count}"]
        if self._hides_user:
            parameters.append("userhash=true")
        return "Digest " + ", ".join(parameters)

    @property
    def _is_session(self) -> bool:
        return self.fields.get("algorithm", "").upper().endswith(_SESSION)

    @property
    def _hides_user(self) -> bool:
        return self.fields.get("userhash", "").lower() == "true"

    @property
    def _qop(self) -> str:
        offered = [name.strip().lower() for name in self.fields.get("qop", "").split(",")]
        return next((name for name in ("auth", "auth-int") if name in offered), "")

    def _user(self, user: str, realm: str) -> str:
        if self._hides_user:
            return f'username="{self._hash(f"{user}:{realm}".encode())}"'
        if not user.isascii() and self.fields.get("charset", "").upper() == "UTF-8":
            return f"username*=UTF-8''{quote(user, safe='')}"
        return f"username={_quoted(user)}"

    def _hash(self, data: bytes) -> str:
        assert self.algorithm is not None
        return new(_HASHES[self.algorithm], data, usedforsecurity=False).hexdigest()


def _challenges(headers: Iterable[str]) -> Iterable[dict[str, str]]:
    """Yield the parameters of every challenge, with its scheme as `scheme`; a header may have several."""
    for header in headers:
        fields: dict[str, str] = {}
        for item in parse_http_list(header):
            begin = _BEGIN.fullmatch(item)
            if begin is not None:
                if fields:
                    yield fields
                fields = {"scheme": begin["scheme"].lower()}
            name, has_value, value = (item if begin is None else begin["rest"] or "").partition("=")
            if has_value and fields:
                fields.setdefault(name.strip().lower(), _unquoted(value.strip()))
        if fields:
            yield fields


def _algorithm_of(fields: Mapping[str, str]) -> str | None:
    """Return the algorithm of a challenge, None for Basic, and an empty text for what cannot be answered."""
    if fields["scheme"] == "basic":
        return None
    name = fields.get("algorithm", "MD5").upper().removesuffix(_SESSION)
    is_known = fields["scheme"] == "digest" and "nonce" in fields and name in _HASHES
    return name if is_known else ""


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
