"""Receipts: a statement, signed by the gateway, that bytes were durable when it was made.

It is a JWT (RFC 7519), HS256 by the gateway's secret. Its `kid` and audience are its own, and it has no expiry, so it
lets nobody in: the door takes no token without all three.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from headrace.gateway.auth.tokens import ISSUER

RECEIPT_KID = "headrace-receipt"
RECEIPT_AUDIENCE = "headrace-receipt"


def sign(digest: str, receipts: Sequence[Mapping[str, Any]], *, secret: str, now_s: float) -> str:
    """Return the signed statement about the records of one digest."""
    claims = {"iss": ISSUER, "aud": RECEIPT_AUDIENCE, "sub": digest, "iat": int(now_s), "receipts": [*receipts]}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": RECEIPT_KID})


def verify(receipt: str, *, secret: str) -> Mapping[str, Any]:
    """Return what a receipt says.

    Raises:
        ValueError: it was not signed with this secret, or is no receipt.
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
        raise ValueError(f"this is no receipt of this gateway ({type(error).__name__})") from None
    return claims
