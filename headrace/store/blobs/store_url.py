"""Open obstore's clients for a store's URL."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store

from headrace.runtime.settings import Settings
from headrace.store.errors import StoreRefusedError, address

CONNECT_TIMEOUT_S = 3
QUICK_TIMEOUT_S = 20  # one request of up to 8 MiB: 400 KiB/s at the least
BULK_TIMEOUT_S = 40  # one of up to 32 MiB: a pack, or a part of a stream; a batch is given up after 120 s in all
COPY_TIMEOUT_S = 300  # a copy within the store, which it answers only when all of it is done: up to 2 GiB
RETRIES_MAX = 2  # obstore's own, within one call; what lasts longer is the caller's to wait for
RETRY_DELAY_S = 0.1
RETRY_DELAY_S_MAX = 1
RETRY_TIMEOUT_S = 10

CHECKSUM = "CRC64NVME"  # goes with every PUT as x-amz-checksum-crc64nvme

_HINT = "Set HEADRACE_STORE_URL to s3://bucket, gs://bucket, az://container or file:///directory."


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """Where a store is and with what it is reached; an empty value is the default of its client."""

    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    ca_file: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings."""
        return cls(
            endpoint=settings.store_endpoint,
            region=settings.store_region,
            access_key=settings.store_access_key.get_secret_value(),
            secret_key=settings.store_secret_key.get_secret_value(),
            ca_file=settings.store_ca_file,
        )


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """One store with three clients, which differ in their request timeout."""

    where: str
    quick: ObjectStore
    bulk: ObjectStore
    copying: ObjectStore


def open_target(url: str, access: StoreAccess) -> OpenedStore:
    """Open clients for a store, without a request.

    Raises:
        StoreRefusedError: the URL's scheme is unknown, or a value is invalid.
    """
    parts = urlsplit(url)
    where = address(url) + (f" at {address(access.endpoint)}" if access.endpoint else "")
    if parts.scheme != "file" and not parts.netloc:
        raise StoreRefusedError("the blob store's URL names no bucket", where=where, hint=_HINT)
    try:
        if parts.scheme == "file":
            # A local file system needs no time limits, so one client is enough for all.
            local = LocalStore(Path(unquote(parts.path)), mkdir=True)
            return OpenedStore(where, local, local, local)
        times_s = (QUICK_TIMEOUT_S, BULK_TIMEOUT_S, COPY_TIMEOUT_S)
        return OpenedStore(where, *(_remote(parts, access, timeout_s=limit_s) for limit_s in times_s))
    except (BaseError, ValueError, OSError) as error:
        reason = str(error).split("\n", 1)[0] if isinstance(error, OSError) else type(error).__name__
        raise StoreRefusedError(f"the blob store cannot be opened: {reason}", where=where, hint=_HINT) from None


def _remote(parts: SplitResult, access: StoreAccess, *, timeout_s: int) -> ObjectStore:
    common: dict[str, Any] = {
        "client_options": {
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=timeout_s),
            "allow_http": access.endpoint.startswith("http://"),
            **({"root_certificate": Path(access.ca_file).read_bytes()} if access.ca_file else {}),
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
            values = {
                "endpoint": access.endpoint,
                "region": access.region,
                "access_key_id": access.access_key,
                "secret_access_key": access.secret_key,
            }
            # The store checks what arrives against a checksum that goes with it, and refuses what was changed on the
            # way. It is a CRC-64 instead of the signature's SHA-256, which would double the client's time: of 200 KB,
            # 0.1 ms against 0.6. The body's own SHA-256 is taken from the same memory before.
            return S3Store(parts.netloc, unsigned_payload=True, checksum_algorithm=CHECKSUM, **_set(values), **common)
        case "gs":
            values = {"service_account_key": access.secret_key}
            return GCSStore(parts.netloc, **_set(values), **common)
        case "az":
            values = {"account_name": access.access_key, "account_key": access.secret_key, "endpoint": access.endpoint}
            return AzureStore(parts.netloc, **_set(values), **common)
        case _:
            raise StoreRefusedError(f"unknown store scheme {parts.scheme!r}", where=address(parts.geturl()), hint=_HINT)


def _set(values: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
