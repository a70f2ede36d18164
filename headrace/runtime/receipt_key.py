"""The key of signed statements: receipts of the gateway, and reports of erasures.

A statement is a JWT (RFC 7519), signed with Ed25519 (RFC 8037). Its key is derived from a secret that the signers
share; the gateway publishes the public key as a JSON Web Key Set (RFC 7517), so that anybody can verify a statement and
nobody else can make one. Each kind has an audience of its own and no expiry, so it is not accepted as a token.
"""

import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode

from headrace.runtime.settings import Settings

ISSUER = "headrace"
RECEIPT_AUDIENCE = "headrace-receipt"
ERASURE_AUDIENCE = "headrace-erasure"
_ALGORITHM = "EdDSA"
_KEY_LABEL = b"headrace receipt key 1"  # every receipt depends on it
_KEY_BYTES = 32


class ReceiptKey:
    """Signs statements; without a secret it signs none, and `keys` is an empty key set."""

    def __init__(self, secret: str) -> None:
        """Derive the key."""
        self._key: Ed25519PrivateKey | None = None
        self.keys: dict[str, Any] = {"keys": []}
        if secret:
            seed = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_KEY_LABEL).derive(secret.encode())
            self._key = Ed25519PrivateKey.from_private_bytes(seed)
            self.keys = {"keys": [_public_jwk(self._key)]}

    @classmethod
    def from_settings(cls, settings: Settings) -> "ReceiptKey":
        """Read the secret from the settings."""
        return cls(settings.gateway_receipt_secret.get_secret_value())

    def sign(self, audience: str, subject: str, claims: Mapping[str, Any]) -> str | None:
        """Return a statement, or None without a secret."""
        if self._key is None:
            return None
        payload = {"iss": ISSUER, "aud": audience, "sub": subject, "iat": int(time.time()), **claims}
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM, headers={"kid": self.keys["keys"][0]["kid"]})


def verify(statement: str, keys: Mapping[str, Any], audience: str = RECEIPT_AUDIENCE) -> Mapping[str, Any]:
    """Return the claims of a statement; `keys` is the key set that the gateway publishes.

    Raises:
        ValueError: it is not a statement of this audience, or was not signed with one of these keys.
    """
    try:
        claims: Mapping[str, Any] = jwt.decode(
            statement,
            jwt.PyJWKSet.from_dict(dict(keys))[jwt.get_unverified_header(statement).get("kid", "")],
            algorithms=[_ALGORITHM],
            audience=audience,
            issuer=ISSUER,
            options={"require": ["iat", "sub", "aud", "iss"]},
        )
    except (jwt.PyJWTError, KeyError) as error:
        raise ValueError(f"invalid receipt ({type(error).__name__})") from None
    return claims


def _public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # RFC 7638: the thumbprint of a key is its id.
    thumbprint = base64url_encode(sha256(orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS)).digest()).decode()
    return {**jwk, "kid": thumbprint, "use": "sig", "alg": _ALGORITHM}
