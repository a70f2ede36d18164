"""Bearer tokens (RFC 7519): our own, for clients that trade a key for one, and those of an issuer that was configured.

An own token is HS256 by the gateway's secret; an issuer's is signed by one of its public keys, with an algorithm of the
list below. Which of the two a token is says its `kid`, and each is only ever checked with its own kind of key: so a
public key is never taken for a secret. `jku`, `x5u` and the like are not looked at.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import jwt

from headrace.gateway.auth.principal import Principal, Role, check_source
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings

ISSUER = "headrace"
OWN_KID = "headrace"
TOKEN_S = 900
TOKEN_CHARACTERS_MAX = 8192
LEEWAY_S = 30
_SUBJECT_CHARACTERS_MAX = 100
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_JWKS_BYTES_MAX = 256 * 1024
_JWKS_S_MAX = 5.0
_JWKS_AGE_S_MAX = 300.0
_JWKS_AGAIN_S = 10.0


class InvalidTokenError(Exception):
    """The token is not good; says why in one sentence, without anything of the token."""


def issue(principal: Principal, *, secret: str, audience: str, now_s: float) -> str:
    """Return an own token for a caller, good for TOKEN_S seconds."""
    claims = {
        "iss": ISSUER,
        "aud": audience,
        "sub": principal.actor,
        "role": principal.role.value,
        "sources": [*principal.sources],
        "iat": int(now_s),
        "exp": int(now_s) + TOKEN_S,
        "jti": uuid4().hex,
    }
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": OWN_KID})


class TokenVerifier:
    """Checks tokens; blocks while the issuer's keys are fetched."""

    def __init__(self, *, secret: str, audience: str, issuer: str, jwks: str) -> None:
        self._secret = secret
        self._audience = audience
        self._issuer = issuer
        self._keys = KeySet(jwks) if jwks else None

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier":
        """Read the secret and the issuer from the settings."""
        return cls(
            secret=settings.gateway_token_secret.get_secret_value(),
            audience=settings.gateway_jwt_audience,
            issuer=settings.gateway_jwt_issuer,
            jwks=settings.gateway_jwks,
        )

    def authenticate(self, token: str) -> Principal:
        """Return who a token says that its bearer is.

        Raises:
            Refused: it is not good.
        """
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise InvalidTokenError("the token is too long")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            claims = self._own(token) if kid == OWN_KID else self._foreign(token, kid)
        except jwt.PyJWTError as error:
            raise InvalidTokenError(f"the token is not good ({type(error).__name__})") from None
        return _principal(claims)

    def _own(self, token: str) -> Mapping[str, Any]:
        if not self._secret:
            raise InvalidTokenError("this gateway issues no tokens of its own")
        return self._decode(token, self._secret, ["HS256"], ISSUER)

    def _foreign(self, token: str, kid: object) -> Mapping[str, Any]:
        if self._keys is None or not self._issuer:
            raise InvalidTokenError("this gateway takes no tokens of other issuers")
        key = self._keys.get(kid)
        if key is None:
            raise InvalidTokenError("the token names a key that its issuer does not have")
        # The algorithm has to be the key's own, and one of the list.
        algorithm = key.algorithm_name
        if algorithm not in _ASYMMETRIC:
            raise InvalidTokenError("the issuer's key is not for signatures that are taken here")
        return self._decode(token, key, [algorithm], self._issuer)

    def _decode(self, token: str, key: Any, algorithms: list[str], issuer: str) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._audience,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "sub", "aud", "iss"]},
        )
        return claims


class KeySet:
    """An issuer's public keys, by their id: from a file, or an https address that is asked again when they are old."""

    def __init__(self, place: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock_s = clock_s
        self._keys: dict[str, jwt.PyJWK] = {}
        self._next_s = 0.0
        self._reading = threading.Lock()

    def get(self, kid: object) -> jwt.PyJWK | None:
        """Return the key of that id; None where there is none."""
        # One at a time, and not again at once where it failed: any made-up token would make the gateway ask.
        if self._clock_s() >= self._next_s and self._reading.acquire(blocking=False):
            try:
                self._next_s = self._clock_s() + (_JWKS_AGE_S_MAX if self._read() else _JWKS_AGAIN_S)
            finally:
                self._reading.release()
        return self._keys.get(kid) if isinstance(kid, str) else None

    def _read(self) -> bool:
        try:
            keys = jwt.PyJWKSet.from_dict(json.loads(_read_jwks(self._place))).keys
        except (OSError, ValueError, jwt.PyJWTError) as error:
            # Those that are known serve on until the issuer answers again.
            get_log().warning(Action.RETRYING, service="jwks", why=type(error).__name__)
            return False
        self._keys = {key.key_id: key for key in keys if key.key_id}
        return True


def _read_jwks(place: str) -> bytes:
    if urlsplit(place).scheme != "https":
        return Path(place).read_bytes()[:_JWKS_BYTES_MAX]
    with urllib.request.urlopen(place, timeout=_JWKS_S_MAX) as answer:  # noqa: S310 - https, as the operator set it
        found: bytes = answer.read(_JWKS_BYTES_MAX)
        return found


def _principal(claims: Mapping[str, Any]) -> Principal:
    sources = claims.get("sources", ())
    if isinstance(sources, str):
        sources = sources.split()
    try:
        role = Role(str(claims.get("role")))
        reach = tuple(check_source(one) for one in sources)
    except (ValueError, AttributeError, TypeError):
        raise InvalidTokenError("the token names no role and sources that are known here") from None
    if not reach:
        raise InvalidTokenError("the token reaches no source")
    subject = str(claims["sub"])
    if claims["iss"] == ISSUER:
        return Principal(subject, role, reach)
    # Long ones must stay different, and fit a row.
    short = subject if len(subject) <= _SUBJECT_CHARACTERS_MAX else sha256(subject.encode()).hexdigest()
    return Principal(f"sub:{short}", role, reach)
