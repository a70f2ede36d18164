"""Hostile URLs: what is asked for must not be reachable through us, and what answers must not harm us.

Every name is resolved by the test and every server is on loopback. No packet leaves this machine: whatever would be
connected to, sent to or looked up elsewhere is heard by an audit hook (`packets.py`), does not happen, and fails the
test. The numbers are those of the list of hostile inputs.
"""

# ruff: noqa: RUF001 - characters that look like others are what is tested

import asyncio
import gzip
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.batch.fetch import pinned_connector
from headrace.batch.fetch.decoding import Decoder
from headrace.batch.fetch.errors import (
    AddressRefusedError,
    AnswerRefusedError,
    ConnectionFailedError,
    HttpStatusError,
    IngestError,
    RedirectRefusedError,
    TimedOutError,
    TooLargeError,
    UrlRefusedError,
)
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.pinned_connector import connector
from headrace.batch.fetch.url import parse, shown_text
from headrace.runtime.addresses import is_allowed, networks_of
from tests.batch.fetch.fetching_world import Names, fetch, picture, plain, redirect, routes, rules, serving
from tests.batch.fetch.packets import PacketRefused, watched

NOWHERE = ()
CANARY = "canary-pass-7"


@pytest.fixture(autouse=True)
def connected() -> Iterator[list[str]]:
    """Every address that a socket is connected to; whatever would leave this machine fails the test."""
    with watched() as watch:
        yield watch.connected


async def ask_asyncio() -> None:
    await asyncio.open_connection("192.0.2.1", 9)


async def ask_for_a_name() -> None:
    await asyncio.to_thread(socket.getaddrinfo, "site.test", 80)


async def connect_at_once() -> None:
    with socket.socket(socket.AF_INET6) as one:
        one.connect(("2001:db8::1", 9))


async def send_a_datagram() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("192.0.2.1", 53))


async def swallow_the_error() -> None:
    with suppress(Exception):
        await connect_at_once()


@pytest.mark.parametrize(
    "leave",
    [ask_asyncio, ask_for_a_name, connect_at_once, send_a_datagram, swallow_the_error],
    ids=lambda one: one.__name__,
)
async def test_a_packet_that_would_leave_does_not_and_fails_its_test(leave: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises((PacketRefused, AssertionError)), watched():
        await leave()


async def refused(url: str, connected: list[str], *expected: type[IngestError], names: Names | None = None) -> None:
    with pytest.raises(expected or (AddressRefusedError, UrlRefusedError)):
        await fetch(url, names, networks=NOWHERE)
    assert connected == []


# 40
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0.0.0.0", "0177.0.0.1", "0x7f000001", "2130706433", "127.1", "0x7f.1", "0"]
)
async def test_this_machine_in_every_spelling(host: str, connected: list[str]) -> None:
    await refused(f"http://{host}/", connected)


# 41
@pytest.mark.parametrize(
    "host",
    [
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25eth0]",
        "[fe80::1]",
        "[::]",
        "[::127.0.0.1]",
        "[2001:0:7f00:1::]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
    ],
)
async def test_this_machine_and_this_network_in_ipv6(host: str, connected: list[str]) -> None:
    await refused(f"http://{host}/", connected)


# 42 and 43
@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "0.1.2.3",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "203.0.113.7",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "127.8.9.1",
        "::ffff:0:7f00:1",
        "64:ff9b:1:7f00:0:100:808:808",
        "2001:4860::5efe:7f00:1",
        "2001:4860::200:5efe:a00:1",
        "fd00::5efe:808:808",
        "2606:4700::1%eth0",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "100:0:0:1::1",
        "4000::1",
        "not an address",
    ],
)
async def test_no_network_but_the_internet_by_number_or_by_name(address: str, connected: list[str]) -> None:
    names = Names({"metadata.google.internal": [address]})
    await refused("http://metadata.google.internal/computeMetadata/v1/", connected, AddressRefusedError, names=names)
    if "not" not in address:
        await refused(f"http://[{address}]/" if ":" in address else f"http://{address}/", connected)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:4860::5efe:808:808"],
)
def test_the_internet_is_allowed_in_every_form(address: str) -> None:
    assert is_allowed(address, ())


# 44
@pytest.mark.parametrize("port", [9000, 9092, 5432, 6379, 8000])
async def test_the_ports_of_our_own_servers(port: int, connected: list[str]) -> None:
    names = Names({"minio": ["127.0.0.1"]})
    await refused(f"http://127.0.0.1:{port}/", connected, AddressRefusedError)
    await refused(f"http://minio:{port}/", connected, AddressRefusedError, names=names)


# 45
@pytest.mark.parametrize(
    "url",
    [
        "http://good@127.0.0.1/",
        "http://127.0.0.1#@good/",
        "http://127.0.0.1?@good/",
        "http://good\\@evil/",
        "http://good\\.evil/",
        "http://go\tod/",
        "http://go\nod/",
        "http://good\r\nHost: evil/",
        "http://good /",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://１２７.0.0.1/",
        "http://127.0.0.1./",
        "http://localhost./",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1%00.good/",
        "http://good:0/",
        "http://good:65536/",
        "http://good:/",
        "http://[::1/",
        "http://[::1]x/",
        "http://::1/",
        "http:///x",
        "http://",
        "http:good",
        "//good/",
        "good",
        "",
        "http://" + "a" * 64 + ".test/",
        "http://a..b/",
        "http://.a/",
        "http://xn--/",
        "http://a\u202eb/",
        "http://good/" + "a" * 4096,
        "http://\ud800/",
    ],
)
async def test_what_two_readers_read_in_two_ways(url: str, connected: list[str]) -> None:
    await refused(url, connected)


async def test_names_in_other_scripts_are_what_dns_carries() -> None:
    assert parse("http://Bücher.example./a b".replace(" ", "%20")).text == "http://xn--bcher-kva.example/a%20b"
    assert parse("HTTPS://Site.Test:443").text == "https://site.test/"
    assert parse("http://a/ü?x=ü#part").text == "http://a/%C3%BC?x=%C3%BC"


# 46
@pytest.mark.parametrize(
    "answers",
    [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1", "::1"], ["8.8.8.8", "::ffff:10.0.0.1"]],
)
async def test_a_name_with_a_good_and_a_bad_address(answers: list[str], connected: list[str]) -> None:
    await refused("http://rebinding.test/", connected, AddressRefusedError, names=Names({"rebinding.test": answers}))


async def test_a_name_that_changes_is_connected_to_where_it_was_checked(connected: list[str]) -> None:
    """The first answer is the good one; whoever asked again before connecting would get the other."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"]])

    async def lookup(_host: str, _port: int) -> list[str]:
        return next(answers)

    async with serving(plain(picture(1))) as server:
        await fetch(server.url(), lookup, networks=networks_of("127.0.0.1/32"))  # type: ignore[arg-type]
    assert connected == ["127.0.0.1"]


async def test_a_name_whose_address_is_no_longer_kept_is_checked_anew(
    connected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a TTL of 0: what it led to a moment ago says nothing."""
    monkeypatch.setattr(pinned_connector, "DNS_CACHE_S", 0)
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])

    async def lookup(_host: str, _port: int) -> list[str]:
        return next(answers)

    good = rules(networks=networks_of("127.0.0.1/32"))
    async with serving(plain(picture(1))) as server, Fetcher(good, lookup=lookup) as fetcher:
        await fetcher.fetch(parse(server.url()))
        with pytest.raises(AddressRefusedError):
            await fetcher.fetch(parse(server.url()))
    assert connected == ["127.0.0.1"]


async def test_a_name_that_turns_bad_for_the_redirect(connected: list[str]) -> None:
    async with serving(redirect("http://second.test:1/")) as server:
        names = Names({"second.test": ["10.0.0.1"]})
        with pytest.raises(AddressRefusedError):
            await fetch(server.url(), names)
    assert connected == ["127.0.0.1"]


async def test_a_socket_is_checked_once_more_for_where_it_leads(connected: list[str]) -> None:
    """What comes by neither our reading of a URL nor our resolver is still not connected to."""
    async with (
        aiohttp.ClientSession(connector=connector((), Names(), ssl.create_default_context())) as session,
        serving(plain(b"")) as server,
    ):
        with pytest.raises(AddressRefusedError):
            await session.get(f"http://127.0.0.1:{server.port}/")
        assert server.connections == 0
    assert connected == []


# 47
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://127.9.9.9:1/", AddressRefusedError),
        ("http://169.254.169.254/latest/meta-data", AddressRefusedError),
        ("//[::1]/", AddressRefusedError),
        ("http://2130706433/", RedirectRefusedError),
        ("file:///etc/passwd", RedirectRefusedError),
        ("gopher://127.0.0.1:6379/_x", RedirectRefusedError),
        ("data:image/png;base64,AAAA", RedirectRefusedError),
        ("http://user:pass@site.test/", RedirectRefusedError),
        ("http://[bad", RedirectRefusedError),
    ],
)
async def test_a_redirect_to_where_none_may_lead(
    location: str, expected: type[IngestError], connected: list[str]
) -> None:
    async with serving(redirect(location)) as server:
        with pytest.raises(expected):
            await fetch(server.url(), networks=networks_of("127.0.0.1/32"))
        assert server.connections == 1
    assert connected == ["127.0.0.1"]


async def test_a_redirect_that_goes_on_and_on() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        number = int(head.split(b" ")[1][1:])
        await redirect(f"/{number + 1}", 301)(head, writer)

    async with serving(answer) as server:
        with pytest.raises(RedirectRefusedError, match="more than 3"):
            await fetch(server.url("/0"))
        assert server.paths == ["/0", "/1", "/2", "/3"]
    async with serving(redirect("/")) as server:
        with pytest.raises(RedirectRefusedError, match="more than 3"):
            await fetch(server.url())
        assert server.connections == 4


async def test_three_redirects_are_followed() -> None:
    chain = {"/": redirect("a"), "/a": redirect("/b", 307), "/b": redirect("//other.test:{port}/c")}
    known = {**chain, "/c": plain(picture(3))}
    async with serving(routes(known)) as server:
        known["/b"] = redirect(f"//other.test:{server.port}/c", 308)
        assert (await fetch(server.url())).body == picture(3)
        assert b"Host: other.test:" in server.heads[-1]


# 48
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://good/",
        "gopher://good/",
        "dict://good:11111/",
        "data:image/png;base64,AAAA",
        "jar:http://good!/x",
        "blob:http://good/x",
        "unix:/run/docker.sock",
        "http+unix://%2Frun%2Fx/",
        "ws://good/",
        "javascript:alert(1)",
        "s3://raw/x",
    ],
)
async def test_other_schemes(url: str, connected: list[str]) -> None:
    await refused(url, connected, UrlRefusedError)


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
        with pytest.raises(ConnectionFailedError, match="too early"):
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


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress", "x"])
async def test_an_encoding_that_was_not_asked_for(encoding: str) -> None:
    async with serving(plain(b"\x00" * 100, f"Content-Encoding: {encoding}")) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())
        assert b"Accept-Encoding: identity\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "body",
    [b"no gzip", gzip.compress(picture(1))[:-20], gzip.compress(picture(1)) + b"more", gzip.compress(picture(1)) * 2],
    ids=["other bytes", "cut off", "more behind its end", "twice"],
)
async def test_an_encoding_that_is_not_kept_to(body: bytes) -> None:
    async with serving(plain(body, "Content-Encoding: gzip")) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())


def test_an_encoding_of_nothing_that_has_no_end() -> None:
    """Neither the bytes behind an end nor empty blocks may fill the memory or go on as long as they like."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    decoder = Decoder("gzip", bytes_max=10_000, where="")
    assert decoder.feed(compressor.compress(b"x") + compressor.flush(zlib.Z_SYNC_FLUSH)) == b"x"
    assert decoder.feed(b"\x00\x00\x00\xff\xff" * 1000) == b""
    with pytest.raises(TooLargeError):
        decoder.feed(b"\x00\x00\x00\xff\xff" * 1000)


async def test_gzip_that_is_what_it_says() -> None:
    async with serving(plain(gzip.compress(picture(2)), "Content-Encoding: gzip")) as server:
        assert (await fetch(server.url())).body == picture(2)


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
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x"), b"a" * 65536, AnswerRefusedError),
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
        Fetcher(rules(bytes_max=100_000), lookup=Names()) as fetcher,
    ):
        for path in ("/bomb", "/endless", "/short", "/missing") * 3:
            with pytest.raises(IngestError):
                await fetcher.fetch(parse(server.url(path)))
            assert (await fetcher.fetch(parse(server.url("/good")))).body == picture(5)
        assert fetcher._session is not None
        assert not fetcher._session.connector._acquired


async def test_an_answer_that_is_no_http() -> None:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n\r\n")

    async with serving(answer) as server:
        with pytest.raises(AnswerRefusedError):
            await fetch(server.url())


def certificate(folder: Path, name: str, *, days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS with a certificate for a name, signed by itself; also as the file of who is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    trusted = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + trusted)
    authority = folder / f"{name}.ca.pem"
    authority.write_bytes(trusted)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, authority


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


# 51
async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(plain(picture(2))) as proxy, serving(plain(picture(1))) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await fetch(server.url())).body == picture(1)
        assert proxy.connections == 0


# 52
async def test_no_login_and_no_cookie_goes_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login somebody password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    cookie = f"Set-Cookie: session={CANARY}; Domain=site.test"
    known = {"/": plain(b"", "Location: /next", cookie, status="302 Found"), "/next": plain(picture(1), cookie)}
    async with serving(routes(known)) as server:
        await fetch(server.url())
        assert server.paths == ["/", "/next"]
        said = b"".join(server.heads).lower()
        assert CANARY.encode() not in said
        assert not any(name in said for name in (b"cookie", b"authorization", b"referer"))


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@site.test/a",
        f"http://user:{CANARY}/x@site.test/",
        f"http://u:{CANARY}#y@site.test/",
        f"ftp://user:{CANARY}@site.test/",
        f"http://user:{CANARY}\\@site.test/",
        f"http://site.test:x/?token={CANARY}",
    ],
)
async def test_a_login_in_a_url_is_in_no_message(url: str, connected: list[str]) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        parse(url)
    assert CANARY not in f"{caught.value!s}{caught.value!r}{caught.value.where}{shown_text(url)}"


def test_what_lets_somebody_in_is_hidden_from_a_query() -> None:
    url = parse(f"https://site.test/a.jpg?width=7&X-Amz-Signature={CANARY}&%74oken={CANARY};key={CANARY}&b")
    assert url.shown == "https://site.test/a.jpg?width=7&X-Amz-Signature=***&%74oken=***;key=***&b"
    assert CANARY not in repr(url)


async def test_a_status_that_is_none_of_success() -> None:
    async with serving(plain(b"", "Retry-After: 7", status="503 Busy")) as server:
        with pytest.raises(HttpStatusError) as caught:
            await fetch(server.url())
    assert (caught.value.status, caught.value.may_pass, caught.value.retry_after_s) == (503, True, 7.0)
