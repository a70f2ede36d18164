"""Receipts: a signed statement of the gateway that bytes were durable at that time.

A receipt is a JWT (RFC 7519), signed with the gateway's secret (HS256). It has a `kid` and an audience of its own and
no expiry, so it is not accepted as a token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from headrace.gateway.auth.tokens import ISSUER

RECEIPT_KID = "headrace-receipt"
RECEIPT_AUDIENCE = "headrace-receipt"


def sign(digest: str, receipts: Sequence[Mapping[str, Any]], *, secret: str, now_s: float) -> str:
    """Return a receipt for the records of a digest."""
    claims = {"iss": ISSUER, "aud": RECEIPT_AUDIENCE, "sub": digest, "iat": int(now_s), "receipts": [*receipts]}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": RECEIPT_KID})


def verify(receipt: str, *, secret: str) -> Mapping[str, Any]:
    """Return the claims of a receipt.

    Raises:
        ValueError: it is not a receipt, or was not signed with this secret.
    """
    try:
        claims: Mapping[str, Any] = jwt.decode(
            receipt,
            secret,
            algorithms=["HS256"],
            audience=RECEIPT_AUDIENCE,
            issuer=ISSUER,
            options={"require": ["iat", "sub", "aud", "iss"]},
        )
    except jwt.PyJWTError as error:
        raise ValueError(f"invalid receipt ({type(error).__name__})") from None
    return claims
