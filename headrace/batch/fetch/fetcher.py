"""One URL, fetched: every hop checked, every byte counted, every wait limited."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import aiohttp
from yarl import URL

from headrace.batch.fetch import url
from headrace.batch.fetch.decoding import Decoder
from headrace.batch.fetch.errors import (
    AddressRefusedError,
    AnswerRefusedError,
    ConnectionFailedError,
    HttpStatusError,
    OptedOutError,
    RedirectRefusedError,
    TimedOutError,
    TooLargeError,
    UrlRefusedError,
)
from headrace.batch.fetch.host_rate_limit import HostRateLimit
from headrace.batch.fetch.opt_out import opts_out
from headrace.batch.fetch.pinned_connector import connector
from headrace.batch.fetch.policy import REDIRECTS_MAX, ROBOTS_BYTES_MAX, ROBOTS_S_MAX, STALL_BYTES_MIN, FetchPolicy
from headrace.batch.fetch.robots import Robots
from headrace.batch.fetch.url import WebUrl
from headrace.runtime.addresses import is_allowed
from headrace.runtime.resolve import Lookup, system_lookup

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)  # the others are ours
_HEADER_BYTES_MAX = 8190
_HEADERS_MAX = 128


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a URL led to in the end."""

    url: WebUrl
    body: bytes


@dataclass(frozen=True, slots=True)
class _Limits:
    bytes_max: int
    total_s_max: float
    is_robots: bool = False


class Fetcher:
    """Fetches over HTTP and HTTPS, many at a time; a context manager, since it holds connections.

    It reads no proxy variable, keeps no cookie, sends no login, and asks for nothing twice that the caller did not ask
    for twice, but for a host's robots.txt, once a host.
    """

    def __init__(self, rules: FetchPolicy, *, lookup: Lookup = system_lookup) -> None:
        self._rules = rules
        self._lookup = lookup
        self._hosts = HostRateLimit(rules.host_requests_max)
        self._robots = Robots(rules.agent, self._robots_txt)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open; nothing is sent yet."""
        self._session = aiohttp.ClientSession(
            connector=connector(self._rules.networks, self._lookup, ssl.create_default_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=_NO_TIMEOUT,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            max_headers=_HEADERS_MAX,
            headers={"User-Agent": self._rules.agent, "Accept": "image/*, video/mp4, */*;q=0.1"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        assert self._session is not None
        await self._session.close()

    async def fetch(self, target: WebUrl) -> Fetched:
        """Return the body that a URL leads to.

        Raises:
            IngestError: one of UrlRefused, AddressRefused, RedirectRefused, OptedOut, HttpStatus, AnswerRefused,
                TooLarge, TimedOut and ConnectionFailed.
        """
        return await self._follow(target, _Limits(self._rules.bytes_max, self._rules.total_s_max))

    async def _robots_txt(self, origin: str) -> bytes:
        limits = _Limits(ROBOTS_BYTES_MAX, ROBOTS_S_MAX, is_robots=True)
        return (await self._follow(url.parse(f"{origin}/robots.txt"), limits)).body

    async def _follow(self, target: WebUrl, limits: _Limits) -> Fetched:
        left_s = limits.total_s_max
        for _ in range(REDIRECTS_MAX + 1):
            self._check_address(target)
            pause_s = self._rules.host_pause_s
            if self._rules.robots and not limits.is_robots:
                pause_s = max(pause_s, await self._robots.check(target))
            async with self._hosts.turn(target.place, pause_s):
                began_s = asyncio.get_running_loop().time()
                found = await self._hop(target, limits, left_s)
                left_s -= asyncio.get_running_loop().time() - began_s
            if isinstance(found, bytes):
                return Fetched(target, found)
            target = _redirected(target, found)
        raise RedirectRefusedError(f"there are more than {REDIRECTS_MAX} redirects", where=target.origin)

    def _check_address(self, target: WebUrl) -> None:
        if target.address is not None and not is_allowed(target.address, self._rules.networks):
            raise AddressRefusedError("the host is neither public nor in a listed network", where=target.place)

    async def _hop(self, target: WebUrl, limits: _Limits, left_s: float) -> bytes | str:
        """Return the body, or where a redirect leads."""
        try:
            async with asyncio.timeout(left_s), self._answer(target) as answer:
                if answer.status in _REDIRECTS and (location := answer.headers.get("Location")):
                    return location
                if answer.status != 200:
                    raise HttpStatusError(
                        answer.status, where=target.origin, retry_after_s=_seconds(answer.headers.get("Retry-After"))
                    )
                if not limits.is_robots:
                    self._check_opt_out(target, answer)
                return await self._body(target, answer, limits)
        except TimeoutError:
            raise TimedOutError(f"it took more than {limits.total_s_max:g} s", where=target.origin) from None

    @asynccontextmanager
    async def _answer(self, target: WebUrl) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {"Accept-Encoding": "identity"}
        with _named(target):
            asked = self._session.get(URL(target.text, encoded=True), allow_redirects=False, headers=headers)
            async with _stalling(asked, self._rules.stall_s_max, target) as answer:
                try:
                    yield answer
                finally:
                    # What was not read to its end is not waited for; otherwise the connection is already free.
                    answer.close()

    def _check_opt_out(self, target: WebUrl, answer: aiohttp.ClientResponse) -> None:
        tags, reservations = (answer.headers.getall(name, []) for name in ("X-Robots-Tag", "tdm-reservation"))
        if self._rules.opt_outs and opts_out(tags, reservations, self._rules.agent):
            raise OptedOutError("the answer's headers ask programs not to take it", where=target.origin)

    async def _body(self, target: WebUrl, answer: aiohttp.ClientResponse, limits: _Limits) -> bytes:
        decoder = Decoder(answer.headers.get("Content-Encoding", ""), bytes_max=limits.bytes_max, where=target.origin)
        if (answer.content_length or 0) > limits.bytes_max:
            raise TooLargeError(f"there are more than {limits.bytes_max} bytes", where=target.origin)
        whole = BytesIO()  # it gives its bytes away without a copy of them
        stall_s, came = self._rules.stall_s_max, 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(stall_s) as stall:
                async for chunk in answer.content.iter_any():
                    whole.write(decoder.feed(chunk))
                    came += len(chunk)
                    if came >= STALL_BYTES_MIN:
                        came = 0
                        stall.reschedule(loop.time() + stall_s)
        except TimeoutError:
            if not stall.expired():
                raise
            what = f"fewer than {STALL_BYTES_MIN} bytes came in {stall_s:g} s"
            raise TimedOutError(what, where=target.origin, may_pass=True) from None
        decoder.end()
        return whole.getvalue()


def _redirected(target: WebUrl, location: str) -> WebUrl:
    try:
        found = url.follow(target, location)
    except (UrlRefusedError, ValueError):
        raise RedirectRefusedError("a redirect leads to no URL that is fetched", where=target.origin) from None
    if target.scheme == "https" and found.scheme != "https":
        raise RedirectRefusedError("a redirect leads from https to http", where=target.origin)
    return found


@asynccontextmanager
async def _stalling(
    asked: "aiohttp.client._RequestContextManager", stall_s: float, target: WebUrl
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Wait for the head of an answer for so long."""
    try:
        async with asyncio.timeout(stall_s) as stall:
            answer = await asked
    except TimeoutError:
        if not stall.expired():
            raise
        raise TimedOutError(f"no answer came in {stall_s:g} s", where=target.origin, may_pass=True) from None
    yield answer


@contextmanager
def _named(target: WebUrl) -> Iterator[None]:
    """Name what aiohttp raises; its own texts hold the URL with its query."""
    where = target.origin
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        why = getattr(error.certificate_error, "verify_message", "") or "it is for another host"
        raise ConnectionFailedError(f"the host's certificate is not trusted: {why}", where=where) from None
    except aiohttp.ClientSSLError:
        raise ConnectionFailedError("the host and we agree on no TLS", where=where) from None
    except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError):
        raise TimedOutError("no connection was made in time", where=where, may_pass=True) from None
    except (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError):
        raise AnswerRefusedError("the answer is not HTTP as it should be", where=where) from None
    except aiohttp.ClientPayloadError:
        raise ConnectionFailedError("the answer ended too early", where=where, may_pass=True) from None
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise ConnectionFailedError("there is no connection, or it dropped", where=where, may_pass=True) from None


def _seconds(text: str | None) -> float | None:
    """Return what Retry-After says in seconds; a date is left to the ordinary pause."""
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 7 else None
