"""A web of the tests' own on loopback: servers that behave and servers that do not, and names that only it knows."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO

import pytest
from PIL import Image

from headrace.batch.fetch.errors import AddressRefusedError, IngestError, UrlRefusedError
from headrace.batch.fetch.fetcher import FetchedBody, Fetcher
from headrace.batch.fetch.policy import FetchPolicy
from headrace.batch.fetch.url import parse_url
from headrace.runtime.addresses import networks_of
from headrace.runtime.settings import load_settings

LOOPBACK = networks_of("127.0.0.0/8")
NOWHERE = ()


def picture(number: int) -> bytes:
    """A JPEG that is another for each number."""
    image = Image.new("RGB", (16, 16), (number % 256, number // 256 % 256, 7))
    image.putpixel((number % 16, 3), (255, 0, number % 200))
    whole = BytesIO()
    image.save(whole, "JPEG")
    return whole.getvalue() + number.to_bytes(4, "big")


@dataclass
class Names:
    """A resolver that knows what it was told, counts what it is asked, and sends no packet."""

    known: dict[str, Sequence[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fallback: Sequence[str] = ("127.0.0.1",)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.known.get(host, self.fallback)


def policy(**changes: object) -> FetchPolicy:
    """A policy with short delays that allows loopback and reads no robots.txt unless told to."""
    known = FetchPolicy.of(load_settings(_env_file=None), "web")
    quick = replace(
        known,
        networks=LOOPBACK,
        total_s_max=20.0,
        stall_s_max=10.0,
        retry_delay_s=0.01,
        retry_delay_s_max=0.05,
        host_pause_s=0.0,
        robots=False,
    )
    return replace(quick, **changes)  # type: ignore[arg-type]


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """What a server was asked for: the head of each request, and where it listens."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "site.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]


@asynccontextmanager
async def serving(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve on loopback; `answer` writes what it likes, byte by byte, and the connection is closed after it."""
    server = Server()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            server.heads.append(head)
            await answer(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def plain(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> Answer:
    """An answer that is always the same."""

    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        size = len(body) if length is None else length
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


def redirect(to: str, status: int = 302) -> Answer:
    return plain(b"", f"Location: {to}", "Set-Cookie: session=canary", status=f"{status} Found")


def routes(known: dict[str, Answer]) -> Answer:
    """Another answer for each path; 404 for what is not there."""

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        await known.get(head.split(b" ")[1].decode(), plain(b"", status="404 Not Found"))(head, writer)

    return answer


async def fetch(url: str, names: Names | None = None, **changes: object) -> FetchedBody:
    """Fetch one URL by names of the test's own."""
    async with Fetcher(policy(**changes), lookup=names or Names()) as fetcher:
        return await fetcher.fetch(parse_url(url))


async def refused(url: str, connected: list[str], *expected: type[IngestError], names: Names | None = None) -> None:
    """Fetch a URL that must be refused before anything is connected to."""
    with pytest.raises(expected or (AddressRefusedError, UrlRefusedError)):
        await fetch(url, names, networks=NOWHERE)
    assert connected == []
