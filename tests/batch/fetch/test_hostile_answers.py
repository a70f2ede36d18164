"""Hostile answers must not harm the fetcher: endless, slow, malformed and compressed bodies, headers and certificates.

Every server is on loopback, and no packet leaves this machine (`packets.py`). The numbers are those of the list of
hostile inputs.
"""

import asyncio
import gzip
import zlib
from pathlib import Path

import pytest

from headrace.batch.fetch.decoding import BodyDecoder
from headrace.batch.fetch.errors import (
    AnswerRefusedError,
    ConnectionFailedError,
    HttpStatusError,
    IngestError,
    RedirectRefusedError,
    TimedOutError,
    TooLargeError,
)
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.url import parse_url
from tests.batch.fetch.web_servers import Names, fetch, picture, plain, policy, redirect, routes, serving
from tests.certificates import certificate

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("connected")]


async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(65536))
        await writer.drain()


# 49
async def test_a_body_without_an_end() -> None:
    async with serving(endless) as server:
        with pytest.raises(TooLargeError):
            await fetch(server.url(), bytes_max=1_000_000)


async def test_a_body_that_says_it_is_too_large() -> None:
    async with serving(plain(b"", length=10**12)) as server:
        with pytest.raises(TooLargeError):
            await fetch(server.url(), bytes_max=1_000_000)


@pytest.mark.parametrize(("changes", "what"), [({"stall_s_max": 0.5}, "fewer than"), ({"total_s_max": 0.5}, "0.5 s")])
async def test_a_body_of_a_byte_at_a_time(changes: dict[str, float], what: str) -> None:
    async def drip(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(drip) as server:
        with pytest.raises(TimedOutError, match=what):
            await fetch(server.url(), **changes)


async def test_a_head_that_never_comes() -> None:
    async def silent(_head: bytes, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with serving(silent) as server:
        with pytest.raises(TimedOutError, match="no answer"):
            await fetch(server.url(), stall_s_max=0.3)


async def test_a_length_that_is_a_lie() -> None:
    async with serving(plain(picture(1), length=100_000)) as server:
        with pytest.raises(ConnectionFailedError, match="truncated"):
            await fetch(server.url())
    async with serving(plain(picture(1) + b"more", length=len(picture(1)))) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb(encoding: str) -> None:
    bomb = gzip.compress(bytes(50_000_000)) if encoding == "gzip" else zlib.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    async with serving(plain(bomb, f"Content-Encoding: {encoding}")) as server:
        with pytest.raises(TooLargeError):
            await fetch(server.url(), bytes_max=1_000_000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip, gzip", "compress", "utf-8, br"])
async def test_an_encoding_that_was_not_asked_for(encoding: str) -> None:
    async with serving(plain(b"\x00" * 100, f"Content-Encoding: {encoding}")) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())
        assert b"Accept-Encoding: identity\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(picture(1))[:-20], (gzip.compress(picture(1)) * 2)[:-20], gzip.compress(b"") * 2000],
    ids=["other bytes", "cut off", "the second member cut off", "very many members"],
)
async def test_an_encoding_that_is_not_kept_to(body: bytes) -> None:
    async with serving(plain(body, "Content-Encoding: gzip")) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())


def test_an_encoding_of_nothing_that_has_no_end() -> None:
    """Neither the bytes behind an end nor empty blocks may fill the memory or go on as long as they like."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    decoder = BodyDecoder("gzip", bytes_max=10_000, where="")
    assert decoder.feed(compressor.compress(b"x") + compressor.flush(zlib.Z_SYNC_FLUSH)) == b"x"
    assert decoder.feed(b"\x00\x00\x00\xff\xff" * 1000) == b""
    with pytest.raises(TooLargeError):
        decoder.feed(b"\x00\x00\x00\xff\xff" * 1000)


RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
HALF = len(picture(2)) // 2


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(picture(2))),
        ("gzip", gzip.compress(picture(2)[:HALF]) + gzip.compress(picture(2)[HALF:])),
        ("gzip", gzip.compress(picture(2)) + b"\x00" * 512),
        ("gzip", gzip.compress(picture(2)) + b"more"),
        ("x-gzip", gzip.compress(picture(2))),
        ("gzip, gzip", gzip.compress(gzip.compress(picture(2)))),
        ("deflate", zlib.compress(picture(2))),
        ("deflate", RAW.compress(picture(2)) + RAW.flush()),
        ("utf-8", picture(2)),
        ("none", picture(2)),
        ("binary", picture(2)),
        ("aws-chunked", picture(2)),
        (",", picture(2)),
        ("identity, gzip", gzip.compress(picture(2))),
    ],
)
async def test_encodings_are_read_as_browsers_read_them(encoding: str, body: bytes) -> None:
    async with serving(plain(body, f"Content-Encoding: {encoding}")) as server:
        assert (await fetch(server.url())).body == picture(2)


@pytest.mark.parametrize("size_bytes", [1, 2, 3, 7])
def test_an_encoded_body_may_come_in_any_pieces(size_bytes: int) -> None:
    whole = gzip.compress(b"one") + gzip.compress(b"two") + b"\x1f behind"
    decoder = BodyDecoder("gzip", bytes_max=1000, where="")
    pieces = [whole[at : at + size_bytes] for at in range(0, len(whole), size_bytes)]
    assert b"".join(map(decoder.feed, pieces)) == b"onetwo"
    decoder.finish()


async def test_long_and_many_headers() -> None:
    headers = [f"X-{number}: y" for number in range(200)] + ["Link: " + "a" * 30_000]
    async with serving(plain(picture(2), *headers)) as server:
        assert (await fetch(server.url())).body == picture(2)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (b"/two words.jpg", "/two%20words.jpg"),
        (b" /padded.jpg ", "/padded.jpg"),
        ("/größe.jpg".encode(), "/gr%C3%B6%C3%9Fe.jpg"),
        ("/größe.jpg".encode("latin-1"), "/gr%F6%DFe.jpg"),
        (b"/done%20already.jpg?a=b%26c#part", "/done%20already.jpg?a=b%26c"),
    ],
)
async def test_a_redirect_is_read_as_browsers_read_it(location: bytes, path: str) -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET / "):
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        else:
            await plain(picture(2))(head, writer)

    async with serving(answer) as server:
        assert (await fetch(server.url("/"))).body == picture(2)
        assert server.paths[-1] == path


@pytest.mark.parametrize(
    "location", [b"http://127.0.0.1 .example/", b"http://a%20b/", b"http:\\\\127.0.0.1/", b"//\xff/"]
)
async def test_a_redirect_whose_host_is_ambiguous_is_refused(location: bytes) -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    async with serving(answer) as server:
        with pytest.raises(RedirectRefusedError):
            await fetch(server.url("/"))


async def test_headers_without_an_end() -> None:
    sent = 0

    async def headers(_head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while sent < 100_000_000:
            writer.write(b"X-%d: " % sent + b"a" * 8000 + b"\r\n")
            await writer.drain()
            sent += 8000

    async def one_header(_head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while sent < 100_000_000:
            writer.write(b"a" * 65536)
            await writer.drain()
            sent += 65536

    for answer in (headers, one_header):
        sent = 0
        async with serving(answer) as server:
            with pytest.raises(AnswerRefusedError):
                await fetch(server.url())
        assert sent < 50_000_000


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "again", "expected"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, TimedOutError),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100, TimedOutError),
        (b"", b"\r\n" * 1000, TimedOutError),
        (b"HTTP/1.1 200 ", b"a" * 65536, AnswerRefusedError),
        (CHUNKED + b"1;", b"a" * 65536, TimedOutError),
        (CHUNKED, b"0" * 65536, TimedOutError),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 1000, AnswerRefusedError),
        (CHUNKED, b"1\r\nx\r\n" * 1000, TooLargeError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n", b"abcdefg", AnswerRefusedError),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            AnswerRefusedError,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"x", AnswerRefusedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", b"x", AnswerRefusedError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x"), b"a" * 65536, TooLargeError),
    ],
    ids=[
        "only 100",
        "only 103",
        "only blank lines",
        "status line",
        "chunk extension",
        "chunk size",
        "trailers",
        "small chunks",
        "two lengths",
        "length and chunks",
        "negative",
        "beyond 64 bits",
        "behind the end of gzip",
    ],
)
async def test_an_answer_whose_frame_has_no_end_or_two_meanings(
    start: bytes, again: bytes, expected: type[IngestError]
) -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.001)

    async with serving(answer) as server:
        with pytest.raises(expected):
            await fetch(server.url(), stall_s_max=0.5, bytes_max=10_000)


async def test_after_each_of_them_the_next_good_one_works() -> None:
    bomb = plain(gzip.compress(bytes(5_000_000)), "Content-Encoding: gzip")
    known = {"/bomb": bomb, "/endless": endless, "/short": plain(b"", length=9), "/good": plain(picture(5))}
    async with (
        serving(routes(known)) as server,
        Fetcher(policy(bytes_max=100_000), lookup=Names()) as fetcher,
    ):
        for path in ("/bomb", "/endless", "/short", "/missing") * 3:
            with pytest.raises(IngestError):
                await fetcher.fetch(parse_url(server.url(path)))
            assert (await fetcher.fetch(parse_url(server.url("/good")))).body == picture(5)
        assert fetcher._session is not None
        assert not fetcher._session.connector._acquired


async def test_an_answer_that_is_no_http() -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n\r\n")

    async with serving(answer) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())


# 50
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("name", "days", "is_trusted"),
    [("site.test", 1, False), ("site.test", -1, True), ("other.test", 1, True)],
    ids=["self-signed", "expired", "another host's"],
)
async def test_a_certificate_that_is_not_good(
    name: str, days: int, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certificate(tmp_path, name, days=days)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with serving(plain(picture(1)), context) as server:
        with pytest.raises(ConnectionFailedError, match="certificate"):
            await fetch(server.url(scheme="https"))
        assert server.heads == []


async def test_a_certificate_that_is_good_and_no_step_back_to_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certificate(tmp_path, "site.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with serving(plain(picture(1)), context) as server:
        assert (await fetch(server.url(scheme="https"))).body == picture(1)
    async with serving(plain(picture(1))) as http, serving(redirect(http.url()), context) as server:
        with pytest.raises(RedirectRefusedError, match="https to http"):
            await fetch(server.url(scheme="https"))
        assert http.connections == 0


async def test_a_status_that_is_none_of_success() -> None:
    async with serving(plain(b"", "Retry-After: 7", status="503 Busy")) as server:
        with pytest.raises(HttpStatusError) as caught:
            await fetch(server.url())
    assert (caught.value.status, caught.value.may_pass, caught.value.retry_after_s) == (503, True, 7.0)
