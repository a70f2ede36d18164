"""Hostile URLs must not give access to hosts that the fetcher can reach.

Every name is resolved by the test and every server is on loopback. No packet leaves this machine: an audit hook
(`packets.py`) prevents every other connection, datagram and look-up, and fails the test. The numbers are those of the
list of hostile inputs.
"""

# ruff: noqa: RUF001 - the tests contain confusable characters

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest

from headrace.batch.fetch import pinned_connector
from headrace.batch.fetch.errors import (
    AddressRefusedError,
    IngestError,
    RedirectRefusedError,
    UrlRefusedError,
)
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.pinned_connector import create_connector
from headrace.batch.fetch.url import parse_url
from headrace.runtime.addresses import is_allowed, networks_of
from tests.batch.fetch.packets import PacketRefusedError, watched
from tests.batch.fetch.web_servers import (
    Names,
    fetch,
    picture,
    plain,
    policy,
    redirect,
    refused,
    routes,
    serving,
)

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("connected")]


async def ask_asyncio() -> None:
    await asyncio.open_connection("192.0.2.1", 9)


async def ask_for_a_name() -> None:
    await asyncio.to_thread(socket.getaddrinfo, "site.test", 80)


async def connect_at_once() -> None:
    with socket.socket(socket.AF_INET6) as item:
        item.connect(("2001:db8::1", 9))


async def send_a_datagram() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as item:
        item.sendto(b"x", ("192.0.2.1", 53))


async def swallow_the_error() -> None:
    with suppress(Exception):
        await connect_at_once()


@pytest.mark.parametrize(
    "leave",
    [ask_asyncio, ask_for_a_name, connect_at_once, send_a_datagram, swallow_the_error],
    ids=lambda item: item.__name__,
)
async def test_a_packet_that_would_leave_does_not_and_fails_its_test(leave: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises((PacketRefusedError, AssertionError)), watched():
        await leave()


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
    assert parse_url("http://Bücher.example./a b".replace(" ", "%20")).text == "http://xn--bcher-kva.example/a%20b"
    assert parse_url("HTTPS://Site.Test:443").text == "https://site.test/"
    assert parse_url("http://a/ü?x=ü#part").text == "http://a/%C3%BC?x=%C3%BC"


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

    good = policy(networks=networks_of("127.0.0.1/32"))
    async with serving(plain(picture(1))) as server, Fetcher(good, lookup=lookup) as fetcher:
        await fetcher.fetch(parse_url(server.url()))
        with pytest.raises(AddressRefusedError):
            await fetcher.fetch(parse_url(server.url()))
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
        aiohttp.ClientSession(connector=create_connector((), Names(), ssl.create_default_context())) as session,
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
