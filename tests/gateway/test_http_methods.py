"""What HTTP asks of every path: HEAD, OPTIONS, `Allow`, the Host, and headers that pages of other origins need."""

import asyncio
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Request
from fastapi.routing import APIRoute

from headrace.gateway.app import create_app
from headrace.gateway.auth.audit_log import AUDIT_ROWS_WAITING_MAX, AuditLog, address_group
from headrace.gateway.auth.guard import Guard, authenticate
from headrace.gateway.auth.rate_limiter import RateLimits, RequestLimiter
from headrace.gateway.auth.tokens import TokenVerifier
from headrace.gateway.problems import Problem
from headrace.gateway.routes import ROUTERS
from headrace.runtime.health import Probes
from headrace.runtime.settings import Settings
from headrace.store.requests.access import AuditRow

ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
PATHS = sorted({re.sub(r"{[^}]*}", "x", route.path) for route in ROUTES})
PAGE = "https://page.example"


@cache
def application(**settings: Any) -> Any:
    """An application that has no components: nothing here needs one."""
    return create_app(Settings(_env_file=None, **settings), Probes({}))


def client(**settings: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application(**settings)), base_url="http://gateway")


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_says_which_methods_it_has(path: str) -> None:
    async with client() as gateway:
        wrong = await gateway.request("PROPFIND", path)
        assert wrong.status_code == 405, wrong.text
        allowed = set(wrong.headers["Allow"].split(", "))
        assert "OPTIONS" in allowed
        assert ("HEAD" in allowed) >= ("GET" in allowed)
        if path != "/api/v1/uploads":  # it answers OPTIONS itself, as tus asks
            options = await gateway.options(path)
            assert (options.status_code, set(options.headers["Allow"].split(", "))) == (204, allowed)


async def test_head_is_get_without_the_body() -> None:
    async with client() as gateway:
        for path in ("/health", "/openapi.json", "/docs"):
            got, head = await gateway.get(path), await gateway.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
        assert (await gateway.head("/nowhere")).status_code == 404
        assert (await gateway.head("/oauth/token")).status_code == 405


async def test_a_slash_too_many_is_no_redirect() -> None:
    async with client() as gateway:
        answer = await gateway.get("/health/", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


async def test_another_host_is_refused_where_hosts_are_listed() -> None:
    async with client(gateway_hosts="gateway, Other.example") as gateway:
        for host, status in (("gateway:8000", 200), ("other.example", 200), ("evil.example", 421), ("", 421)):
            answer = await gateway.get("/health", headers={"Host": host})
            assert answer.status_code == status, host


@pytest.mark.parametrize(("host", "message"), [("evil.example", "http.response.start"), ("gateway", "close")])
async def test_a_websocket_to_another_host_is_refused_where_hosts_are_listed(host: str, message: str) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(sending: dict[str, Any]) -> None:
        sent.append(sending)

    headers = [(b"host", host.encode())]
    scope = {"type": "websocket", "path": "/nowhere", "raw_path": b"/nowhere", "query_string": b"", "headers": headers}
    await application(gateway_hosts="gateway")({**scope, "root_path": "", "subprotocols": []}, receive, send)
    assert sent[0]["type"] == f"websocket.{message}"
    assert sent[0].get("status", 421) == 421


class Keys:
    """Counts the look-ups of keys."""

    def __init__(self) -> None:
        self.found = 0

    async def find_key(self, key_id: str) -> None:
        self.found += 1


async def test_who_guesses_too_often_is_refused_before_a_key_is_looked_up() -> None:
    settings = Settings(_env_file=None, gateway_requests_per_minute=3)
    keys = Keys()
    limiter = RequestLimiter("", RateLimits.of(settings))
    guard = Guard(settings, keys, TokenVerifier.from_settings(settings), limiter, AuditLog(Rows()))  # type: ignore[arg-type]
    app = SimpleNamespace(state=SimpleNamespace(components={Guard: guard}))
    statuses = []
    for number in range(10):
        key = f"hr_{number:032x}_{'a1b2c3d4' * 8}"
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "app": app, "state": {}}
        scope |= {"headers": [(b"x-api-key", key.encode())], "client": ("192.0.2.7", 1)}
        with pytest.raises(Problem) as refused:
            await authenticate(Request(scope))
        statuses.append(refused.value.status_code)
    assert statuses == [401] * 3 + [429] * 7
    assert keys.found == 3


async def test_a_limit_tells_what_is_left() -> None:
    limiter = RequestLimiter("", RateLimits.of(Settings(_env_file=None, gateway_requests_per_minute=3)))
    allowances = [await limiter.hit(limiter.limits.requests, "key:a") for _ in range(4)]
    assert [allowance.within for allowance in allowances] == [True, True, True, False]
    assert [allowance.headers()["RateLimit"].partition(";t=")[0] for allowance in allowances] == [
        f'"requests";r={left}' for left in (2, 1, 0, 0)
    ]
    assert allowances[0].headers()["RateLimit-Policy"] == '"requests";q=3;w=60'


async def test_a_page_can_read_why_it_was_refused() -> None:
    async with client(gateway_cors_origins=PAGE) as gateway:
        for path, status in (("/nowhere", 404), ("/health?token=x", 400)):
            answer = await gateway.get(path, headers={"Origin": PAGE})
            assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, PAGE)
        other = await gateway.get("/nowhere", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_of_ipv6_is_one_address(address: str, group: str) -> None:
    assert address_group(address) == group


class Rows:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.rows: list[AuditRow] = []

    async def audit(self, rows: list[AuditRow]) -> None:
        self.rows += rows


async def test_refusals_that_are_alike_are_one_row_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [600.0]
    monkeypatch.setattr("headrace.gateway.auth.audit_log.time.time", lambda: now[0])
    kept = Rows()
    log = AuditLog(kept)  # type: ignore[arg-type]
    for number in range(1000):
        log.add("GET /x", "not_authenticated", actor=None, address=f"2001:db8::{number:x}", request_id=f"r{number}")
    log.add("POST /y", None, actor="key:a", address="192.0.2.7", request_id="other")
    now[0] = 661.0
    log.add("GET /x", "not_authenticated", actor=None, address="2001:db8::1", request_id="later")
    for number in range(AUDIT_ROWS_WAITING_MAX):
        log.add("GET /x", "not_authenticated", actor=f"key:{number}", address="192.0.2.7", request_id=None)
    await log.write()
    shown = [(row.action, row.address, row.request_id, row.count) for row in kept.rows]
    assert shown[:4] == [
        ("GET /x", "2001:db8::/64", "r0", 1),
        ("POST /y", "192.0.2.7", "other", 1),
        ("GET /x", "2001:db8::/64", None, 999),
        ("GET /x", "2001:db8::/64", "later", 1),
    ]
    assert len(kept.rows) <= AUDIT_ROWS_WAITING_MAX + 4


async def test_repeated_requests_are_written_when_their_minute_or_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [600.0]
    monkeypatch.setattr("headrace.gateway.auth.audit_log.time.time", lambda: now[0])
    kept = Rows()
    log = AuditLog(kept)  # type: ignore[arg-type]

    async def refuse_twice() -> list[int]:
        kept.rows.clear()
        for _ in range(2):
            log.add("GET /x", "forbidden", actor="key:a", address="192.0.2.7", request_id=None)
        await log.write()
        return [row.count for row in kept.rows]

    assert await refuse_twice() == [1]
    now[0] = 660.0
    await log.write()
    assert [row.count for row in kept.rows] == [1, 1]
    assert await refuse_twice() == [1]
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [row.count for row in kept.rows] == [1, 1]
