"""API keys: `hr_<id>_<secret>`. The secret is shown once; only its SHA-256 is stored."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from headrace.gateway.auth.principal import Principal, Role
from headrace.runtime.gateway_settings import checked_secret
from headrace.store.requests.access import Access, KeyDefinition, KeyRow

_PREFIX = "hr"
_KEY = re.compile(r"hr_([0-9A-Za-z]+)_([0-9A-Za-z_-]+)")
_ID_BYTES = 6
_SECRET_BYTES = 32
_TEXT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new API key; `text` is shown once."""

    key_id: str
    text: str


def parse(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of an API key, or None where the text is not one."""
    match = _KEY.fullmatch(text) if len(text) <= _TEXT_CHARACTERS_MAX else None
    return None if match is None else (match[1], match[2])


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new API key is called and may do; it expires after `days`, if given."""

    name: str
    role: Role
    sources: Sequence[str]
    days: float | None = None


async def add(access: Access, grant: Grant, *, actor: str) -> NewKey:
    """Create an API key."""
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    await add_given(access, (key_id, secret), grant, actor=actor)
    return NewKey(key_id, f"{_PREFIX}_{key_id}_{secret}")


async def add_given(access: Access, key: tuple[str, str], grant: Grant, *, actor: str) -> bool:
    """Store an API key with a given id and secret; returns False if a key has the id, which stays as it is.

    Raises:
        ValueError: the secret is too weak.
    """
    key_id, secret = key
    definition = KeyDefinition(
        key_id=key_id,
        name=grant.name,
        role=grant.role,
        sources=tuple(grant.sources),
        secret_sha256=_digest(checked_secret(secret)),
        days=grant.days,
    )
    return await access.add_key(definition, actor)


async def rotate(access: Access, key_id: str, overlap_hours: float, *, actor: str) -> NewKey | None:
    """Give an API key a new secret; returns None where the key does not exist or was revoked."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    if not await access.rotate_key(key_id, _digest(secret), overlap_hours, actor):
        return None
    return NewKey(key_id, f"{_PREFIX}_{key_id}_{secret}")


async def authenticate(access: Access, key_id: str, secret: str) -> Principal | None:
    """Return the principal of an API key, or None where the key is invalid, revoked or expired."""
    row = await access.find_key(key_id)
    digest = _digest(secret)
    # Compared also where the key does not exist, so that the duration does not reveal it.
    is_valid = compare_digest(digest, row.secret_sha256 if row else bytes(32))
    if row is not None and row.previous_sha256 is not None and row.previous_is_good:
        is_valid |= compare_digest(digest, row.previous_sha256)
    return principal_of_row(row) if row is not None and is_valid else None


def principal_of_row(row: KeyRow) -> Principal | None:
    """Return the principal of an API key's row, or None where the key was revoked or has expired."""
    if row.revoked or row.expired:
        return None
    return Principal(f"key:{row.key_id}", Role(row.role), row.sources)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
