"""Storage classes, against a server of the tests' own that answers as S3 does; it keeps no bytes."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from runtime.settings import Settings
from store.cold import ColdStore
from store.errors import BlobMissing, StoreRefused, StoreUnavailable

SETTINGS = {
    "store_access_key": "key", "store_secret_key": "canary-secret", "archive_url": "s3://cold/old",
    "archive_storage_class": "GLACIER",
}  # fmt: skip


class Server:
    """One bucket: each object's class, and how far its restore is."""

    def __init__(self) -> None:
        self.classes = {"old/a": "STANDARD", "old/b": "GLACIER"}
        self.restores: dict[str, str] = {}
        self.asked: list[str] = []
        self.sizes = {"old/a": 3, "old/b": 3}
        self.shortened_by = 0
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        key = request.path.removeprefix("/cold/")
        if self.status != 200:
            return web.Response(status=self.status)
        if key not in self.classes:
            return web.Response(status=404)
        if request.method == "PUT":
            assert request.headers["x-amz-copy-source"] == f"cold/{key}"
            self.classes[key] = request.headers["x-amz-storage-class"]
            self.sizes[key] -= self.shortened_by
            return web.Response(text="<CopyObjectResult></CopyObjectResult>", content_type="application/xml")
        if request.method == "POST":
            assert "restore" in request.query
            assert "<Days>7</Days>" in await request.text()
            self.asked.append(key)
            self.restores[key] = 'ongoing-request="true"'
            return web.Response(status=202)
        headers = {"Content-Length": str(self.sizes[key])}
        if self.classes[key] != "STANDARD":  # S3 does not name the class that everything has
            headers["x-amz-storage-class"] = self.classes[key]
        if restore := self.restores.get(key):
            headers["x-amz-restore"] = restore
        return web.Response(headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield made
    await runner.cleanup()


@pytest.fixture
async def cold(server: Server) -> AsyncIterator[ColdStore]:
    settings = Settings(_env_file=None, store_endpoint=server.url, **SETTINGS)  # type: ignore[attr-defined,call-arg,arg-type]
    async with ColdStore.open(settings) as opened:
        yield opened


async def test_an_object_comes_into_its_class_once(server: Server, cold: ColdStore) -> None:
    await cold.freeze("a")
    await cold.freeze("a")
    assert server.classes["old/a"] == "GLACIER"


async def test_an_object_that_changes_on_the_way_is_refused(server: Server, cold: ColdStore) -> None:
    server.shortened_by = 1
    with pytest.raises(StoreRefused, match="did not come into the class GLACIER"):
        await cold.freeze("a")


async def test_a_sleeping_object_is_asked_for_once_and_is_awake_when_its_restore_has_ended(
    server: Server, cold: ColdStore
) -> None:
    assert await cold.is_awake("a")
    assert not await cold.is_awake("b")
    assert not await cold.is_awake("b")
    assert server.asked == ["old/b"]
    server.restores["old/b"] = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'
    assert await cold.is_awake("b")


async def test_faults_are_named_without_secrets(server: Server, cold: ColdStore) -> None:
    with pytest.raises(BlobMissing):
        await cold.is_awake("absent")
    server.status = 403
    with pytest.raises(StoreRefused) as refused:
        await cold.freeze("a")
    assert "canary" not in str(refused.value)
    server.status = 503
    with pytest.raises(StoreUnavailable):
        await cold.is_awake("a")
