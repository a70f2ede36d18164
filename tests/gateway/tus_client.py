"""A caller that uploads by tus 1.0.0, and may be cut off."""

import asyncio
import base64
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx

from headrace.store.blobs.blob_store import Blobs
from tests.gateway.gateway_world import Gateway
from tests.waiting import until

PATH = "/api/v1/uploads"
OCTETS = "application/offset+octet-stream"


class TusClient:
    """Speaks the protocol with one key."""

    def __init__(self, gateway: Gateway, key: str | None = None, timeout_s: float = 90.0) -> None:
        self.gateway = gateway
        self.key = key or gateway.key()
        self.http = httpx.Client(
            base_url=gateway.url, timeout=timeout_s, headers={"X-API-Key": self.key, "Tus-Resumable": "1.0.0"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def create(
        self, length: object, *, content: bytes = b"", headers: dict[str, str] | None = None, **said: str
    ) -> Any:
        given = {"Upload-Length": str(length), **({"Content-Type": OCTETS} if content else {}), **(headers or {})}
        if said:
            given["Upload-Metadata"] = metadata(**said)
        return self.http.post(PATH, headers=given, content=content)

    def begin(self, length: int, **said: str) -> str:
        """A new upload's address."""
        answer = self.create(length, **said)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["Location"])

    def head(self, path: str) -> httpx.Response:
        return self.http.head(path)

    def offset(self, path: str) -> int:
        answer = self.head(path)
        assert answer.status_code == 200, answer.status_code
        return int(answer.headers["Upload-Offset"])

    def patch(self, path: str, offset: object, content: bytes | Iterable[bytes], **headers: str) -> httpx.Response:
        given = {"Content-Type": OCTETS, "Upload-Offset": str(offset), **headers}
        return self.http.patch(path, headers=given, content=content)

    @contextmanager
    def unfinished(self, path: str, offset: int, length: int, *extra: str) -> Iterator[socket.socket]:
        """A PATCH of so many bytes, as a socket that takes them; it is closed without an answer."""
        head = [
            f"PATCH {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.gateway.http_port}",
            f"X-API-Key: {self.key}",
            "Tus-Resumable: 1.0.0",
            f"Content-Type: {OCTETS}",
            f"Content-Length: {length}",
            f"Upload-Offset: {offset}",
            *extra,
            "",
            "",
        ]
        with socket.create_connection(("127.0.0.1", self.gateway.http_port), timeout=90) as connection:
            connection.sendall("\r\n".join(head).encode())
            yield connection

    def wait_free(self, path: str) -> int:
        """Wait until nobody writes to an upload; returns its offset."""
        until(lambda: not is_held(self.gateway, path), 90, "the upload to be free")
        return self.offset(path)


def metadata(**said: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items())


def id_of(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def is_held(gateway: Gateway, path: str) -> bool:
    sql = "select coalesce(held_until > now(), false) from uploads where upload_id = %s"
    return any(row[0] for row in gateway.rows(sql, id_of(path)))


def stored(gateway: Gateway, prefix: str) -> dict[str, int]:
    """What the store has below a prefix, with sizes."""

    async def look() -> dict[str, int]:
        blobs = Blobs.from_settings(gateway.settings)
        return {one.key: one.size_bytes async for one in blobs.list(prefix)}

    return asyncio.run(look())


def parts_of(gateway: Gateway, path: str) -> dict[str, int]:
    return stored(gateway, f"staging/~gateway/uploads/{id_of(path)}/")
