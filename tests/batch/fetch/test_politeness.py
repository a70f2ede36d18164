"""How hosts are treated: what they do not want is not taken, and none is asked too often."""

import asyncio
import threading
from concurrent.futures import wait

import pytest

from headrace.batch.background import BackgroundLoop
from headrace.batch.fetch.client import WORKERS_MAX
from headrace.batch.fetch.errors import ConnectionFailedError, HttpStatusError, IngestError, OptedOutError
from headrace.batch.fetch.fetcher import Fetcher
from headrace.batch.fetch.politeness import HostRateLimit, opts_out
from headrace.batch.fetch.url import parse_url
from tests.batch.fetch.web_servers import Names, fetch, picture, plain, policy, routes, serving

AGENT = "headrace/0.1"


@pytest.mark.parametrize(
    ("tags", "reservations", "expected"),
    [
        ([], [], False),
        (["noindex, nofollow"], ["0"], False),
        (["noai"], [], True),
        (["noindex, NoImageAI"], [], True),
        (["headrace: noai"], [], True),
        (["other: noai"], [], False),
        (["noindex", "noai"], [], True),
        ([], [" 1 "], True),
    ],
)
def test_what_headers_ask_for(tags: list[str], reservations: list[str], expected: bool) -> None:
    assert opts_out(tags, reservations, AGENT) is expected


@pytest.mark.parametrize("header", ["X-Robots-Tag: noai", "tdm-reservation: 1"])
async def test_an_answer_that_is_not_to_be_taken(header: str) -> None:
    async with serving(plain(picture(1), header)) as server:
        with pytest.raises(OptedOutError):
            await fetch(server.url())
        assert (await fetch(server.url(), opt_outs=False)).body == picture(1)


ROBOTS = b"User-agent: *\nDisallow: /\n\nUser-agent: headrace\nDisallow: /private/*.jpg\nCrawl-delay: 0\n"


async def test_robots_txt_is_asked_for_once_and_kept_to() -> None:
    known = {path: plain(picture(1)) for path in ("/a", "/b", "/private/a.jpg")}
    async with (
        serving(routes(known | {"/robots.txt": plain(ROBOTS)})) as server,
        Fetcher(policy(robots=True), lookup=Names()) as fetcher,
    ):
        await asyncio.gather(*(fetcher.fetch(parse_url(server.url(path))) for path in ("/a", "/b")))
        with pytest.raises(OptedOutError):
            await fetcher.fetch(parse_url(server.url("/private/a.jpg")))
        assert sorted(server.paths) == ["/a", "/b", "/robots.txt"]


async def test_a_byte_order_mark_is_no_part_of_the_first_rule() -> None:
    robots = b"\xef\xbb\xbfUser-agent: headrace\r\nDisallow: /\r\n"
    async with serving(routes({"/a": plain(picture(1)), "/robots.txt": plain(robots)})) as server:
        with pytest.raises(OptedOutError):
            await fetch(server.url("/a"), robots=True)


async def test_a_host_without_robots_txt_forbids_nothing() -> None:
    async with serving(routes({"/a": plain(picture(1))})) as server:
        assert (await fetch(server.url("/a"), robots=True)).body == picture(1)


@pytest.mark.parametrize("status", ["500 Broken", "429 Slow down"])
async def test_a_robots_txt_that_cannot_be_had_keeps_us_away(status: str) -> None:
    known = {"/a": plain(picture(1)), "/robots.txt": plain(b"", status=status)}
    async with serving(routes(known)) as server:
        with pytest.raises(HttpStatusError) as caught:
            await fetch(server.url("/a"), robots=True)
        assert caught.value.may_pass
        assert server.paths == ["/robots.txt"]


async def test_a_robots_txt_without_an_end_is_not_read_to_it() -> None:
    known = {"/a": plain(picture(1)), "/robots.txt": plain(b"#" * 600_000)}
    async with serving(routes(known)) as server:
        with pytest.raises(OptedOutError):
            await fetch(server.url("/a"), robots=True)


async def test_a_name_is_looked_up_once() -> None:
    names = Names()
    async with serving(plain(picture(1))) as server, Fetcher(policy(), lookup=names) as fetcher:
        await asyncio.gather(*(fetcher.fetch(parse_url(server.url(f"/{number}"))) for number in range(10)))
        assert len(server.heads) == 10
    assert names.asked == ["site.test"]


def test_names_that_nobody_answers_hold_up_no_others() -> None:
    """As many as are fetched at a time, and the look-ups of those that were given up before them."""
    background, answered = BackgroundLoop(), threading.Event()
    stuck = [background.submit(asyncio.to_thread(answered.wait)) for _ in range(WORKERS_MAX)]
    try:
        assert background.run(asyncio.wait_for(asyncio.to_thread(lambda: "looked up"), 60)) == "looked up"
    finally:
        answered.set()
        wait(stuck)
        background.close()


def test_what_is_closed_says_so() -> None:
    background = BackgroundLoop()
    background.close()
    with pytest.raises(RuntimeError, match="closed"):
        background.run(asyncio.to_thread(int))


async def test_a_name_without_an_address_may_have_one_later() -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        await fetch("http://nowhere.test/", Names(fallback=()))
    assert caught.value.may_pass


async def test_a_host_gets_so_many_requests_at_a_time_and_others_do_not_wait() -> None:
    now: dict[str, int] = {}
    most: dict[str, int] = {}
    hosts = HostRateLimit(2)

    async def one(host: str) -> None:
        async with hosts.slot(host, 0.0):
            now[host] = now.get(host, 0) + 1
            most[host] = max(most.get(host, 0), now[host])
            await asyncio.sleep(0.001)
            now[host] -= 1

    await asyncio.gather(*(one(host) for host in ("a", "b", "c") for _ in range(10)))
    assert most == {"a": 2, "b": 2, "c": 2}


async def test_a_host_has_pauses_between_requests() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    hosts = HostRateLimit(8, clock=lambda: 100.0, sleep=sleep)

    async def one(host: str) -> None:
        async with hosts.slot(host, 2.0):
            pass

    await asyncio.gather(*(one("a") for _ in range(4)), one("b"))
    assert pauses == [0.0, 2.0, 4.0, 6.0, 0.0]


async def test_of_many_hosts_few_are_kept() -> None:
    hosts = HostRateLimit(1)
    for number in range(3000):
        async with hosts.slot(str(number), 0.0):
            pass
    assert len(hosts._hosts) <= 1001


@pytest.mark.parametrize(
    ("attempt", "retry_after_s", "jitter", "expected_s"),
    [
        (1, 0.0, 1.0, 1.0),
        (1, 0.0, 0.0, 0.5),
        (3, 0.0, 1.0, 4.0),
        (9, 0.0, 1.0, 20.0),
        (1, 7.0, 0.0, 7.0),
        (1, 3600.0, 0.0, 20.0),
    ],
)
def test_pauses_double_up_to_a_bound(attempt: int, retry_after_s: float, jitter: float, expected_s: float) -> None:
    backoff = policy(retry_delay_s=1.0, retry_delay_s_max=20.0).backoff
    assert backoff.delay_s(attempt, jitter=jitter, at_least_s=retry_after_s) == expected_s


def test_every_error_says_what_to_do_next() -> None:
    for kind in IngestError.__subclasses__():
        if kind is HttpStatusError:
            assert HttpStatusError(404, where="http://a").hint
        elif kind.__name__ not in {"StoreFailedError", "CatalogFailedError"}:
            assert kind("what").hint
            assert kind("what").code == kind.code_of_class != IngestError.code_of_class
