"""Fetches one URL: checks the address of every redirect, counts every byte, and limits every wait."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import aiohttp
from yarl import URL

from headrace.batch.fetch.decoding import BodyDecoder
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
from headrace.batch.fetch.pinned_connector import create_connector
from headrace.batch.fetch.policy import (
    HEADER_BYTES_MAX,
    HEADERS_MAX,
    REDIRECTS_MAX,
    ROBOTS_BYTES_MAX,
    ROBOTS_S_MAX,
    STALL_BYTES_MIN,
    FetchPolicy,
)
from headrace.batch.fetch.politeness import HostRateLimit, RobotsTxt, opts_out
from headrace.batch.fetch.url import WebUrl, parse_url, resolve_redirect
from headrace.runtime.addresses import Lookup, is_allowed, system_lookup

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)  # the fetcher sets the other limits
_SUCCESSFUL = frozenset({200, 203})  # a proxy that changed the answer says 203


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """The body of a URL, and the URL after redirects."""

    url: WebUrl
    body: bytes


@dataclass(frozen=True, slots=True)
class _FetchLimits:
    bytes_max: int
    total_s_max: float
    is_robots: bool = False


class Fetcher:
    """Fetches over HTTP and HTTPS, many URLs at a time; a context manager, since it holds connections.

    It ignores proxy variables, keeps no cookies, sends no credentials, and repeats no request by itself; it reads the
    robots.txt of each host once.
    """

    def __init__(self, policy: FetchPolicy, *, lookup: Lookup = system_lookup) -> None:
        self._policy = policy
        self._lookup = lookup
        self._rate_limit = HostRateLimit(policy.host_requests_max)
        self._robots = RobotsTxt(policy.agent, self._fetch_robots)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session; sends nothing."""
        self._session = aiohttp.ClientSession(
            connector=create_connector(self._policy.networks, self._lookup, ssl.create_default_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=_NO_TIMEOUT,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            headers={"User-Agent": self._policy.agent, "Accept": "image/*, video/mp4, */*;q=0.1"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        assert self._session is not None
        await self._session.close()

    async def fetch(self, target: WebUrl) -> FetchedBody:
        """Return the body of a URL, following redirects.

        Raises:
            IngestError: one of UrlRefusedError, AddressRefusedError, RedirectRefusedError, OptedOutError,
                HttpStatusError, AnswerRefusedError, TooLargeError, TimedOutError and ConnectionFailedError.
        """
        return await self._follow_redirects(target, _FetchLimits(self._policy.bytes_max, self._policy.total_s_max))

    async def _fetch_robots(self, origin: str) -> bytes:
        limits = _FetchLimits(ROBOTS_BYTES_MAX, ROBOTS_S_MAX, is_robots=True)
        return (await self._follow_redirects(parse_url(f"{origin}/robots.txt"), limits)).body

    async def _follow_redirects(self, target: WebUrl, limits: _FetchLimits) -> FetchedBody:
        left_s = limits.total_s_max
        for _ in range(REDIRECTS_MAX + 1):
            self._check_address(target)
            interval_s = self._policy.host_pause_s
            if self._policy.robots and not limits.is_robots:
                interval_s = max(interval_s, await self._robots.check(target))
            async with self._rate_limit.slot(target.authority, interval_s):
                started_s = asyncio.get_running_loop().time()
                result = await self._request(target, limits, left_s)
                left_s -= asyncio.get_running_loop().time() - started_s
            if isinstance(result, bytes):
                return FetchedBody(target, result)
            target = _redirect_target(target, result)
        raise RedirectRefusedError(f"more than {REDIRECTS_MAX} redirects", where=target.origin)

    def _check_address(self, target: WebUrl) -> None:
        if target.ip_address is not None and not is_allowed(target.ip_address, self._policy.networks):
            what = "the host is neither public nor in a listed network"
            raise AddressRefusedError(what, where=target.authority)

    async def _request(self, target: WebUrl, limits: _FetchLimits, left_s: float) -> bytes | str:
        """Return the body, or the location of a redirect."""
        try:
            async with asyncio.timeout(left_s), self._response(target) as response:
                if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                    return location
                if response.status not in _SUCCESSFUL:
                    retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
                    raise HttpStatusError(response.status, where=target.origin, retry_after_s=retry_after_s)
                if not limits.is_robots:
                    self._check_opt_out(target, response)
                return await self._read_body(target, response, limits)
        except TimeoutError:
            raise TimedOutError(f"it took more than {limits.total_s_max:g} s", where=target.origin) from None

    @asynccontextmanager
    async def _response(self, target: WebUrl) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {"Accept-Encoding": "identity"}
        with _translate_errors(target):
            request = self._session.get(URL(target.text, encoded=True), allow_redirects=False, headers=headers)
            response = await _await_headers(request, self._policy.stall_s_max, target)
            try:
                yield response
            finally:
                # Drops the connection if the body was not read to its end; otherwise it was released before.
                response.close()

    def _check_opt_out(self, target: WebUrl, response: aiohttp.ClientResponse) -> None:
        tags, reservations = (response.headers.getall(name, []) for name in ("X-Robots-Tag", "tdm-reservation"))
        if self._policy.opt_outs and opts_out(tags, reservations, self._policy.agent):
            raise OptedOutError("the answer's headers opt out of use by programs", where=target.origin)

    async def _read_body(self, target: WebUrl, response: aiohttp.ClientResponse, limits: _FetchLimits) -> bytes:
        encoding = response.headers.get("Content-Encoding", "")
        decoder = BodyDecoder(encoding, bytes_max=limits.bytes_max, where=target.origin)
        if (response.content_length or 0) > limits.bytes_max:
            raise TooLargeError(f"the body is larger than {limits.bytes_max} bytes", where=target.origin)
        body = BytesIO()  # whose getvalue() does not copy
        stall_s, received = self._policy.stall_s_max, 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(stall_s) as stall:
                async for chunk in response.content.iter_any():
                    body.write(decoder.feed(chunk))
                    received += len(chunk)
                    if received >= STALL_BYTES_MIN:
                        received = 0
                        stall.reschedule(loop.time() + stall_s)
        except TimeoutError:
            if not stall.expired():
                raise
            what = f"fewer than {STALL_BYTES_MIN} bytes came in {stall_s:g} s"
            raise TimedOutError(what, where=target.origin, may_pass=True) from None
        decoder.finish()
        return body.getvalue()


def _redirect_target(target: WebUrl, location: str) -> WebUrl:
    try:
        redirected = resolve_redirect(target, location)
    except (UrlRefusedError, ValueError):
        raise RedirectRefusedError("the redirect's URL is not accepted", where=target.origin) from None
    if target.scheme == "https" and redirected.scheme != "https":
        raise RedirectRefusedError("the redirect leads from https to http", where=target.origin)
    return redirected


async def _await_headers(
    request: "aiohttp.client._RequestContextManager", stall_s: float, target: WebUrl
) -> aiohttp.ClientResponse:
    """Wait at most `stall_s` seconds for the headers of an answer."""
    try:
        async with asyncio.timeout(stall_s) as stall:
            return await request
    except TimeoutError:
        if not stall.expired():
            raise
        raise TimedOutError(f"no answer came in {stall_s:g} s", where=target.origin, may_pass=True) from None


@contextmanager
def _translate_errors(target: WebUrl) -> Iterator[None]:
    """Translate aiohttp's errors, whose own messages show the URL with its query."""
    where = target.origin
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or "it is for another host"
        raise ConnectionFailedError(f"the host's certificate is not trusted: {reason}", where=where) from None
    except aiohttp.ClientSSLError:
        raise ConnectionFailedError("the TLS handshake failed", where=where) from None
    except (aiohttp.ServerTimeoutError, aiohttp.ConnectionTimeoutError):
        raise TimedOutError("the connection timed out", where=where, may_pass=True) from None
    except (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError):
        raise AnswerRefusedError("malformed HTTP response", where=where) from None
    except aiohttp.ClientPayloadError:
        raise ConnectionFailedError("the response is truncated", where=where, may_pass=True) from None
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise ConnectionFailedError("the connection failed or was lost", where=where, may_pass=True) from None


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; a date is ignored, so the usual delay applies."""
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 7 else None
