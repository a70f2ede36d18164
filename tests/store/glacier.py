"""A small S3 of the tests' own, with a storage class whose objects cannot be read until a restore has ended.

MinIO refuses the classes that sleep, so what has to wait for them is tested against this one, over HTTP. It keeps its
objects in memory and looks at no signature.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Self
from xml.sax.saxutils import escape

from aiohttp import web

from headrace.store.blobs import storage_class

# A session reads the descriptions of S3, which are large, once.
storage_class.get_session = cache(storage_class.get_session)

SLEEPING = "GLACIER"
_ONGOING = 'ongoing-request="true"'
_ENDED = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'
_MODIFIED = "Mon, 23 Nov 2026 00:00:00 GMT"


class Glacier:
    """Buckets by path, `bucket/key`: bytes, classes, and how far restores are; `asked` has them in their order."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, bytes] = {}
        self.classes: dict[str, str] = {}
        self.restores: dict[str, str] = {}
        self.asked: list[str] = []
        self.shortened_by = 0  # what a copy loses on the way
        self.has_others = False  # who ask for an object as soon as somebody has looked at it
        self.status = 200  # of every answer, where it is another

    @classmethod
    @asynccontextmanager
    async def serve(cls) -> AsyncIterator[Self]:
        """Listen on loopback."""
        made = cls()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", made._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield made
        finally:
            await runner.cleanup()

    def wake(self) -> None:
        """End every restore that was asked for."""
        self.restores = dict.fromkeys(self.restores, _ENDED)

    def sleeps(self, path: str) -> bool:
        """Say whether an object cannot be read now."""
        return self.classes.get(path) == SLEEPING and self.restores.get(path) != _ENDED

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path.strip("/")
        if self.status != 200:
            return web.Response(status=self.status)
        if "list-type" in request.query:
            return self._list(path, request.query.get("prefix", ""))
        match request.method:
            case "PUT" if "x-amz-copy-source" in request.headers:
                return self._copy(path, request.headers)
            case "PUT":
                return self._put(path, await request.read(), request.headers)
            case "POST" if "restore" in request.query:
                return self._restore(path, await request.text())
            case "GET" | "HEAD" if path in self.objects:
                return self._read(path, request)
            case "POST" if "delete" in request.query:
                return self._delete(path, re.findall(r"<Key>([^<]+)</Key>", await request.text()))
            case "GET" | "HEAD":
                return _error(404, "NoSuchKey")
            case _:
                return _error(501, "NotImplemented")

    def _put(self, path: str, body: bytes, headers: Mapping[str, str]) -> web.Response:
        if headers.get("If-None-Match") == "*" and path in self.objects:
            return _error(412, "PreconditionFailed")
        self.objects[path] = body
        self.classes[path] = headers.get("x-amz-storage-class", "STANDARD")
        self.restores.pop(path, None)
        return web.Response(headers={"ETag": '"tag"'})

    def _copy(self, path: str, headers: Mapping[str, str]) -> web.Response:
        source = headers["x-amz-copy-source"].strip("/")
        if source not in self.objects:
            return _error(404, "NoSuchKey")
        if self.sleeps(source):
            return _error(403, "InvalidObjectState")
        body = self.objects[source]
        self._put(path, body[: len(body) - self.shortened_by], {**headers, "If-None-Match": ""})
        self.classes[path] = headers["x-amz-storage-class"]
        return web.Response(
            text="<CopyObjectResult><ETag>tag</ETag></CopyObjectResult>", content_type="application/xml"
        )

    def _restore(self, path: str, asked: str) -> web.Response:
        if path not in self.objects:
            return _error(404, "NoSuchKey")
        if path in self.restores:
            return _error(409, "RestoreAlreadyInProgress")
        if "<Days>7</Days>" not in asked or self.classes[path] != SLEEPING:
            return _error(403, "InvalidObjectState")
        self.asked.append(path)
        self.restores[path] = _ONGOING
        return web.Response(status=202)

    def _delete(self, bucket: str, keys: Sequence[str]) -> web.Response:
        for key in keys:
            self.objects.pop(f"{bucket}/{key}", None)
            self.classes.pop(f"{bucket}/{key}", None)
            self.restores.pop(f"{bucket}/{key}", None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return web.Response(text=f"<DeleteResult>{deleted}</DeleteResult>", content_type="application/xml")

    def _read(self, path: str, request: web.Request) -> web.Response:
        body = self.objects[path]
        headers = {"ETag": '"tag"', "Last-Modified": _MODIFIED, "Accept-Ranges": "bytes"}
        if self.classes[path] != "STANDARD":  # S3 does not name the class that everything has
            headers["x-amz-storage-class"] = self.classes[path]
        if restore := self.restores.get(path):
            headers["x-amz-restore"] = restore
        if request.method == "HEAD":
            if self.has_others and self.sleeps(path):
                self.restores.setdefault(path, _ONGOING)
            return web.Response(headers=headers | {"Content-Length": str(len(body))})
        if self.sleeps(path):
            return _error(403, "InvalidObjectState")
        wanted = request.http_range
        if wanted.start is None:
            return web.Response(body=body, headers=headers)
        if wanted.start >= len(body):
            return _error(416, "InvalidRange")
        end = min(len(body), wanted.stop or len(body))
        headers["Content-Range"] = f"bytes {wanted.start}-{end - 1}/{len(body)}"
        return web.Response(status=206, body=body[wanted.start : end], headers=headers)

    def _list(self, bucket: str, prefix: str) -> web.Response:
        keys = sorted(path.removeprefix(f"{bucket}/") for path in self.objects if path.startswith(f"{bucket}/{prefix}"))
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[f'{bucket}/{key}'])}</Size><ETag>tag</ETag>"
            "<LastModified>2026-11-23T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        return web.Response(
            text=f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>",
            content_type="application/xml",
        )


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>",
        content_type="application/xml",
    )
