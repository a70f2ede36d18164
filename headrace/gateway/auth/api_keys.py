"""API keys: `hr_<id>_<secret>`. The secret is shown once; only its SHA-256 is kept."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from headrace.gateway.auth.principal import Principal, Role
from headrace.store.requests.access import Access, KeyDefinition, KeyRow

_PREFIX = "hr"
_KEY = re.compile(r"hr_([0-9A-Za-z]+)_([0-9A-Za-z_-]+)")
_ID_BYTES = 6
_SECRET_BYTES = 32
_TEXT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `text` is what the caller shows, and is never seen again."""

    key_id: str
    text: str


def parse(text: str) -> tuple[str, str] | None:
    """Return a key's id and secret, or None where the text is no key."""
    found = _KEY.fullmatch(text) if len(text) <= _TEXT_CHARACTERS_MAX else None
    return None if found is None else (found[1], found[2])


async def add(access: Access, name: str, role: Role, sources: Sequence[str], days: float | None) -> NewKey:
    """Make a key."""
    key_id = secrets.token_hex(_ID_BYTES)
    return await put(access, key_id, secrets.token_urlsafe(_SECRET_BYTES), (name, role, sources), days)


async def put(
    access: Access, key_id: str, secret: str, what: tuple[str, Role, Sequence[str]], days: float | None
) -> NewKey:
    """Keep a key whose id and secret are given."""
    name, role, sources = what
    await access.add_key(
        KeyDefinition(
            key_id=key_id, name=name, role=role, sources=tuple(sources), secret_sha256=_digest(secret), days=days
        )
    )
    return NewKey(key_id, f"{_PREFIX}_{key_id}_{secret}")


async def rotate(access: Access, key_id: str, overlap_hours: float) -> NewKey | None:
    """Give a key another secret; None where there is no such key."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    if not await access.rotate_key(key_id, _digest(secret), overlap_hours):
        return None
    return NewKey(key_id, f"{_PREFIX}_{key_id}_{secret}")


async def authenticate(access: Access, key_id: str, secret: str) -> Principal | None:
    """Return who shows this key, or None where it is not, or no longer, good."""
    row = await access.find_key(key_id)
    given = _digest(secret)
    # Compared also where there is no such key, so that its absence takes as long.
    good = compare_digest(given, row.secret_sha256 if row else bytes(32))
    if row is not None and row.previous_sha256 is not None and row.previous_is_good:
        good |= compare_digest(given, row.previous_sha256)
    return principal_of_row(row) if row is not None and good else None


def principal_of_row(row: KeyRow) -> Principal | None:
    """Return who has this key, or None where it was revoked or is over."""
    if row.revoked or row.expired:
        return None
    return Principal(f"key:{row.key_id}", Role(row.role), row.sources)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
