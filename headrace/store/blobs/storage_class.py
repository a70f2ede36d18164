"""Storage classes of S3: move objects into one, and restore those that cannot be read directly.

An object of GLACIER or DEEP_ARCHIVE can be read only after a restore request has completed, hours later; the restored
copy expires after some days.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, SSLError

from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_errors import certificate_refused
from headrace.store.blobs.store_url import COPY_TIMEOUT_S, StoreAccess
from headrace.store.errors import BlobMissingError, StoreRefusedError, StoreUnavailableError

RESTORED_DAYS = 7  # for which a restored copy can be read
_TIER = "Standard"  # takes hours; every class that needs a restore supports it
_NOT_READABLE = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_CONNECT_S = 5
_HINT = "Check HEADRACE_ARCHIVE_STORAGE_CLASS, and what the store's keys may do in the archive."


class StorageClassStore:
    """The objects of an archive at s3://. Every method may be repeated.

    Raises StoreUnavailableError or StoreRefusedError.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, storage_class: str) -> None:
        """Use an opened client; see `open`."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._class = storage_class
        self._where = f"s3://{bucket}/{prefix}".rstrip("/")

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open the s3:// archive of the settings, without a request."""
        parts = urlsplit(settings.archive_url)
        prefix = parts.path.strip("/")
        access = StoreAccess.of(settings)
        client = get_session().create_client(
            "s3",
            endpoint_url=access.endpoint or None,
            region_name=access.region,
            aws_access_key_id=access.access_key or None,
            aws_secret_access_key=access.secret_key or None,
            verify=access.ca_file or None,
            config=AioConfig(connect_timeout=_CONNECT_S, read_timeout=COPY_TIMEOUT_S, retries={"max_attempts": 3}),
        )
        async with client as opened:
            yield cls(opened, parts.netloc, f"{prefix}/" if prefix else "", settings.archive_storage_class)

    async def freeze(self, key: str) -> None:
        """Move an object into the configured storage class, if any; its size and checksum must stay.

        Raises:
            BlobMissingError: the object does not exist.
        """
        if not self._class:
            return
        before = await self._head(key)
        if before.get("StorageClass", "STANDARD") == self._class:
            return
        await self._send(
            self._client.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                CopySource={"Bucket": self._bucket, "Key": self._prefix + key},
                StorageClass=self._class,
                MetadataDirective="COPY",
            ),
            key,
        )
        after = await self._head(key)
        if after.get("StorageClass", "STANDARD") != self._class or _content(before) != _content(after):
            raise StoreRefusedError(
                f"{key} was not moved to the storage class {self._class}", where=self._where, hint=_HINT
            )

    async def is_awake(self, key: str) -> bool:
        """Return whether an object can be read now; if not, request its restore, once.

        Raises:
            BlobMissingError: the object does not exist.
        """
        head = await self._head(key)
        if head.get("StorageClass") not in _NOT_READABLE:
            return True
        if restore := head.get("Restore"):
            return 'ongoing-request="false"' in restore
        request = {"Days": RESTORED_DAYS, "GlacierJobParameters": {"Tier": _TIER}}
        await self._send(
            self._client.restore_object(Bucket=self._bucket, Key=self._prefix + key, RestoreRequest=request), key
        )
        return False

    async def _head(self, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self._send(
            self._client.head_object(Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"), key
        )
        return answer

    async def _send(self, request: Any, key: str) -> Any:
        try:
            return await request
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "an error"))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status == 404:
                raise BlobMissingError(key, where=self._where) from None
            if code == "RestoreAlreadyInProgress":
                return {}
            if status >= 500 or status == 429:
                raise StoreUnavailableError(
                    f"the store answered {status} {code} for {key}", where=self._where
                ) from None
            raise StoreRefusedError(
                f"the store answered {status} {code} for {key}", where=self._where, hint=_HINT
            ) from None
        except SSLError:
            raise certificate_refused(self._where) from None
        except BotoCoreError as error:
            raise StoreUnavailableError(
                f"the store does not answer: {type(error).__name__}", where=self._where
            ) from None


def _content(head: dict[str, Any]) -> tuple[Any, ...]:
    """Return the size and checksum of an object; not every store reports both."""
    return head.get("ContentLength"), head.get("ChecksumCRC64NVME")
