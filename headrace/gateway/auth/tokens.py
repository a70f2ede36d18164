"""Bearer tokens (RFC 7519): the gateway's own, which clients get for an API key, and those of a configured issuer.

The gateway's own tokens are signed with its secret (HS256); an issuer's with one of its private keys and an asymmetric
algorithm. The `kid` tells them apart, and each is verified with its own kind of key only: a public key is never used as
a secret (key confusion). Headers that name keys (`jku`, `x5u` and so on) are ignored.
"""

import http.client
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
from headrace.runtime.receipt_key import ISSUER
from headrace.runtime.settings import Settings

OWN_KID = "headrace"
TOKEN_S = 900
TOKEN_CHARACTERS_MAX = 8192
LEEWAY_S = 30
_SUBJECT_CHARACTERS_MAX = 100
_ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEY_SUBJECT = "key:"
JWKS_BYTES_MAX = 256 * 1024
_JWKS_READ_BYTES = 64 * 1024
_JWKS_S_MAX = 5.0  # until the answer begins, and then until it is complete
_JWKS_AGE_S_MAX = 300.0
_JWKS_RETRY_S = 10.0
_JWKS_UNKNOWN_KID_S = 30.0  # between two refreshes because of a `kid` that is not there


class InvalidTokenError(Exception):
    """The token is invalid; the message holds nothing of the token."""


def issue(principal: Principal, *, secret: str, audience: str, now_s: float) -> str:
    """Return a token of the gateway for a principal, valid for TOKEN_S seconds."""
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
    """Verifies tokens; blocks while the issuer's keys are fetched."""

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
        """Return the principal a token identifies.

        Raises:
            InvalidTokenError: the token is invalid.
        """
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise InvalidTokenError("the token is too long")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            claims = self._own(token) if kid == OWN_KID else self._foreign(token, kid)
        except jwt.PyJWTError as error:
            raise InvalidTokenError(f"the token is invalid ({type(error).__name__})") from None
        return _principal(claims)

    def _own(self, token: str) -> Mapping[str, Any]:
        if not self._secret:
            raise InvalidTokenError("the gateway does not issue tokens")
        claims = self._decode(token, self._secret, ["HS256"], ISSUER)
        # A longer validity, or another subject, is nothing that the gateway issues: somebody else has its secret.
        if claims["exp"] - claims["iat"] > TOKEN_S or not str(claims["sub"]).startswith(_KEY_SUBJECT):
            raise InvalidTokenError("the token is not one that the gateway issues")
        return claims

    def _foreign(self, token: str, kid: object) -> Mapping[str, Any]:
        if self._keys is None or not self._issuer:
            raise InvalidTokenError("no token issuer is configured")
        key = self._keys.get(kid)
        if key is None:
            raise InvalidTokenError("the issuer has no key with the token's kid")
        # The key determines the algorithm, not the token.
        algorithm = key.algorithm_name
        if algorithm not in _ASYMMETRIC:
            raise InvalidTokenError("the algorithm of the issuer's key is not supported")
        return self._decode(token, key, [algorithm], self._issuer)

    def _decode(self, token: str, key: Any, algorithms: list[str], issuer: str) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._audience,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "sub", "aud", "iss"], "enforce_minimum_key_length": True},
        )
        return claims


class KeySet:
    """An issuer's public keys by `kid`, from a file or an https URL.

    They are refreshed once they are old, and when a token names an unknown `kid`, at most every 30 s.
    """

    def __init__(self, location: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._location = location
        self._clock_s = clock_s
        self._keys: dict[str, jwt.PyJWK] = {}
        self._refresh_at_s = 0.0
        self._refresh_for_unknown_at_s = 0.0
        self._refreshing = threading.Lock()

    def get(self, kid: object) -> jwt.PyJWK | None:
        """Return the key with this `kid`, or None."""
        if not isinstance(kid, str):
            return None
        self._refresh_from(self._refresh_at_s)
        if kid not in self._keys:
            self._refresh_from(self._refresh_for_unknown_at_s)
        return self._keys.get(kid)

    def _refresh_from(self, at_s: float) -> None:
        # One refresh at a time, and a pause after each: forged tokens must not make the gateway fetch the keys.
        if self._clock_s() < at_s or not self._refreshing.acquire(blocking=False):
            return
        try:
            is_refreshed, now_s = self._refresh(), self._clock_s()
            self._refresh_at_s = now_s + (_JWKS_AGE_S_MAX if is_refreshed else _JWKS_RETRY_S)
            self._refresh_for_unknown_at_s = now_s + (_JWKS_UNKNOWN_KID_S if is_refreshed else _JWKS_RETRY_S)
        finally:
            self._refreshing.release()

    def _refresh(self) -> bool:
        try:
            keys = _fetch_keys(self._location)
        except (OSError, ValueError, RecursionError, http.client.HTTPException, jwt.PyJWTError) as error:
            # The known keys stay valid until the issuer answers again.
            get_log().warning(Action.RETRYING, service="jwks", why=type(error).__name__)
            return False
        self._keys = {key.key_id: key for key in keys if key.key_id}
        return True


def _fetch_keys(location: str) -> list[jwt.PyJWK]:
    if urlsplit(location).scheme == "https":
        return _JwksClient(location, cache_jwk_set=False, timeout=_JWKS_S_MAX).get_signing_keys()
    return jwt.PyJWKSet.from_dict(json.loads(Path(location).read_bytes()[:JWKS_BYTES_MAX])).keys


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any) -> None:
        """Follow no redirect; the answer is an error then."""


class _JwksClient(jwt.PyJWKClient):
    """Fetches keys from the configured address alone: without redirects, and without the environment's proxies."""

    def fetch_data(self) -> Any:
        """Return the JSON of the answer.

        Raises:
            OSError, ValueError, HTTPException: there is no answer in time, it is too large, or it is not JSON.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
        body = bytearray()
        with opener.open(self.uri, timeout=self.timeout) as response:
            until_s = time.monotonic() + self.timeout
            while chunk := response.read1(_JWKS_READ_BYTES):
                body += chunk
                if len(body) > JWKS_BYTES_MAX:
                    raise ValueError(f"the answer has more than {JWKS_BYTES_MAX} bytes")
                if time.monotonic() > until_s:
                    raise TimeoutError
        return json.loads(body)


def _principal(claims: Mapping[str, Any]) -> Principal:
    sources = claims.get("sources", ())
    if isinstance(sources, str):
        sources = sources.split()
    try:
        role = Role(str(claims.get("role")))
        scopes = tuple(check_source(source) for source in sources)
    except (ValueError, AttributeError, TypeError):
        raise InvalidTokenError("the token has no valid role and sources") from None
    if not scopes:
        raise InvalidTokenError("the token has no sources")
    subject = str(claims["sub"])
    if claims["iss"] == ISSUER:
        return Principal(subject, role, scopes)
    # A long subject is hashed: it stays unique and fits the audit log's column.
    short = subject if len(subject) <= _SUBJECT_CHARACTERS_MAX else sha256(subject.encode()).hexdigest()
    return Principal(f"sub:{short}", role, scopes)
