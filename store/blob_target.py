"""From a URL and plain values to obstore's clients."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store

from store.errors import StoreRefused, address

CONNECT_TIMEOUT_S = 3
QUICK_TIMEOUT_S = 20  # one request of up to 8 MiB: 400 KiB/s at the least
BULK_TIMEOUT_S = 300  # one request of any size, and copies, which the store answers only when they are done
RETRIES_MAX = 2  # obstore's own, within one call; what lasts longer is the caller's to wait for
RETRY_DELAY_S = 0.1
RETRY_DELAY_S_MAX = 1
RETRY_TIMEOUT_S = 10

_HINT = "Set HEADRACE_STORE_URL to s3://bucket, gs://bucket, az://container or file:///directory."


@dataclass(frozen=True, slots=True)
class Target:
    """One store, through two clients that differ in the time a request may take."""

    where: str
    quick: ObjectStore
    bulk: ObjectStore


def open_target(url: str, *, endpoint: str, region: str, access_key: str, secret_key: str) -> Target:
    """Open clients for a store; nothing is sent yet.

    Raises:
        StoreRefused: the URL is of no known kind, or a value is not usable.
    """
    parts = urlsplit(url)
    where = address(url) + (f" at {address(endpoint)}" if endpoint else "")
    keys = (access_key, secret_key)
    if parts.scheme != "file" and not parts.netloc:
        raise StoreRefused("the blob store's URL names no bucket", where=where, hint=_HINT)
    try:
        if parts.scheme == "file":
            # A local file system needs no time limits, so one client is enough.
            local = LocalStore(Path(unquote(parts.path)), mkdir=True)
            return Target(where, local, local)
        return Target(
            where,
            _remote(parts, endpoint, region, keys, timeout_s=QUICK_TIMEOUT_S),
            _remote(parts, endpoint, region, keys, timeout_s=BULK_TIMEOUT_S),
        )
    except (BaseError, ValueError, OSError) as error:
        reason = str(error).split("\n", 1)[0] if isinstance(error, OSError) else type(error).__name__
        raise StoreRefused(f"the blob store cannot be opened: {reason}", where=where, hint=_HINT) from None


def _remote(parts: SplitResult, endpoint: str, region: str, keys: tuple[str, str], *, timeout_s: int) -> ObjectStore:
    access_key, secret_key = keys
    common: dict[str, Any] = {
        "client_options": {
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=timeout_s),
            "allow_http": endpoint.startswith("http://"),
        },
        "retry_config": {
            "max_retries": RETRIES_MAX,
            "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
            "backoff": {
                "init_backoff": timedelta(seconds=RETRY_DELAY_S),
                "max_backoff": timedelta(seconds=RETRY_DELAY_S_MAX),
                "base": 2,
            },
        },
        "prefix": parts.path.strip("/") or None,
    }
    match parts.scheme:
        case "s3":
            given = {
                "endpoint": endpoint,
                "region": region,
                "access_key_id": access_key,
                "secret_access_key": secret_key,
            }
            # The payload stays out of the signature: hashing it again would cost half of the client's time, and what
            # arrives is checked against the digest that names it.
            return S3Store(parts.netloc, unsigned_payload=True, **_set(given), **common)
        case "gs":
            given = {"service_account_key": secret_key}
            return GCSStore(parts.netloc, **_set(given), **common)
        case "az":
            given = {"account_name": access_key, "account_key": secret_key, "endpoint": endpoint}
            return AzureStore(parts.netloc, **_set(given), **common)
        case _:
            raise StoreRefused(
                f"there is no store of the kind {parts.scheme!r}", where=address(parts.geturl()), hint=_HINT
            )


def _set(values: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
