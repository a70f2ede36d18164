"""A fake API on loopback: logins, injected faults, and a record of its requests."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from aiohttp import multipart, web

from headrace.batch.platform.boxes import Generation
from tests.waiting import until

# aiohttp builds its pattern anew for every part of every form, which takes half the time of an import.
multipart.parse_content_disposition = cache(multipart.parse_content_disposition)

LOGINS = {"reader": "reader-secret", "boss": "boss-secret", "admin": "admin12345"}
WHO = web.RequestKey("who", str)


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path begin so, but for the first `after`.

    `do` is a status, or: `lost`, the work is done and the connection dropped; `stall`, no answer; `html`, a page that
    somebody on the way made; `redirect`, to where it was asked; `endless`, a body without an end; `cut`, half of one.
    """

    begins: str
    do: int | str
    times: int = 1
    after: int = 0


@dataclass
class ApiServer:
    """One API: what it was asked, and what is to go wrong."""

    generation: Generation
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    logins: list[str] = field(default_factory=list)
    url: str = ""
    has_login: bool = True

    def number_of(self, begins: str) -> int:
        return sum(item.startswith(begins) for item in self.asked)

    def expire(self) -> None:
        self.tokens.clear()

    def log_in(self, name: str | None, password: str | None) -> web.Response:
        if LOGINS.get(name or "") != password:
            return web.json_response({"detail": "Invalid credentials."}, status=401)
        self.logins.append(str(name))
        token = f"token-{len(self.logins)}"
        self.tokens[token] = str(name)
        return web.json_response({"access_token": token, "token_type": "bearer"})

    def application(self) -> web.Application:
        @web.middleware
        async def around(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
            line = f"{request.method} {request.path.removeprefix('/api/v1')}"
            self.asked.append(line)
            due = self._due(f"{line}?{request.query.get('from_date', '')}")
            if isinstance(due, int):
                return web.json_response({"detail": "as the test wants it"}, status=due)
            if due == "stall":
                await asyncio.sleep(30)
            if due == "html":
                return web.Response(text="<!DOCTYPE html>\n<p>Sign in", content_type="text/html")
            if due == "redirect":
                raise web.HTTPFound(request.url)
            if due == "endless":
                return await _endless(request)
            if not self.has_login and "/login" in request.path:
                return web.json_response({"detail": "Not Found"}, status=404)
            if self.has_login and not request.path.startswith(("/bucket", "/api/v1/login/creds", "/api/v1/auth/login")):
                token = request.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in self.tokens:
                    return web.json_response({"detail": "Could not validate credentials"}, status=401)
                request[WHO] = self.tokens[token]
            answer: web.StreamResponse = await handler(request)
            if due == "cut":
                assert isinstance(answer, web.Response)
                assert isinstance(answer.body, bytes)
                return web.Response(body=answer.body[: len(answer.body) // 2], content_type=answer.content_type)
            if due == "lost":
                assert request.transport is not None
                request.transport.abort()
            return answer

        application = web.Application(middlewares=[around])
        application.add_routes(self.routes())
        return application

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def _due(self, line: str) -> int | str | None:
        for fault in self.faults:
            if fault.times and line.startswith(fault.begins):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault.do
        return None


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"[" * 1024 * 1024)


@contextmanager
def served(*servers: ApiServer) -> Iterator[None]:
    """Serve each on a port of its own, in a thread, so that commands and other processes can be their clients."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners = [
        web.AppRunner(server.application(), access_log=None, shutdown_timeout=0, handler_cancellation=True)
        for server in servers
    ]

    async def start() -> None:
        for item, runner in zip(servers, runners, strict=True):
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert runner.addresses
            item.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            assert urlsplit(item.url).port

    async def stop() -> None:
        for runner in runners:
            await runner.cleanup()

    asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        until(lambda: not loop.is_running(), 20, "the servers to end")
        thread.join()
        loop.close()
