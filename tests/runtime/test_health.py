"""What an operator asks a process, and how its dependencies are asked before."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from headrace.runtime import health, metrics
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.health import HealthServer, Probes, Readiness

pytestmark = pytest.mark.server


@dataclass
class State:
    """What the server is told to say."""

    alive: tuple[bool, str] = (True, "moving")
    needs: dict[str, str | None] = field(default_factory=lambda: {"kafka": None, "store": None, "redis": None})
    draining: bool = False

    def readiness(self) -> Readiness:
        return Readiness(self.needs, self.draining)


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def server(state: State) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, livez=lambda: state.alive, readyz=state.readiness)
    server.start()
    yield server
    server.stop()


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_ours_in_the_text_format(server: HealthServer) -> None:
    metrics.worker_deliveries_total.labels("frame", "stored").inc()
    status, text = ask(server, "/metrics")
    assert status == 200
    assert 'headrace_worker_deliveries_total{kind="frame",outcome="stored"}' in text


def test_a_process_that_moves_is_alive_and_one_that_does_not_is_not(server: HealthServer, state: State) -> None:
    assert ask(server, "/livez") == (200, '{"alive": true, "why": "moving"}')
    state.alive = (False, "nothing has moved for 40 s")
    status, text = ask(server, "/livez")
    assert status == 503
    assert json.loads(text) == {"alive": False, "why": "nothing has moved for 40 s"}


@pytest.mark.parametrize(
    ("fault", "draining", "status", "shown"),
    [
        (None, False, 200, "ready"),
        ("store", False, 503, "not ready"),
        ("redis", False, 200, "degraded"),
        (None, True, 503, "draining"),
    ],
)
def test_a_process_is_ready_when_everything_it_needs_answers(
    server: HealthServer, state: State, fault: str | None, draining: bool, status: int, shown: str
) -> None:
    state.draining = draining
    if fault is not None:
        state.needs[fault] = "no answer in time"
    needs = {name: why or "ok" for name, why in state.needs.items()}
    answered, text = ask(server, "/readyz")
    assert (answered, json.loads(text)) == (status, {"ready": status == 200, "state": shown, "needs": needs})


@pytest.mark.parametrize("path", ["/", "/metricsx", "/../etc/passwd", "/livez/", "/debug"])
def test_another_path_is_answered_with_the_paths_there_are(server: HealthServer, path: str) -> None:
    status, text = ask(server, path)
    assert status == 404
    assert json.loads(text) == {"paths": ["/metrics", "/livez", "/readyz"]}


def test_a_client_that_says_nothing_holds_up_nobody(server: HealthServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"GET /livez HT")
        assert ask(server, "/livez")[0] == 200


def test_a_port_that_is_taken_is_said_with_what_to_do(server: HealthServer, state: State) -> None:
    with pytest.raises(HeadraceError) as caught:
        HealthServer("127.0.0.1", server.port, livez=lambda: state.alive, readyz=state.readiness)
    assert (caught.value.code, caught.value.exit_code) == ("health_port_taken", Exit.FAILED)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    assert "HEADRACE_HEALTH_PORT" in caught.value.hint


def test_once_stopped_the_port_is_free(state: State) -> None:
    first = HealthServer("127.0.0.1", 0, livez=lambda: state.alive, readyz=state.readiness)
    first.start()
    port = first.port
    first.stop()
    again = HealthServer("127.0.0.1", port, livez=lambda: state.alive, readyz=state.readiness)
    again.start()
    again.stop()


class Service:
    """A dependency that answers, or fails as it is told to."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if isinstance(self.fault, TimeoutError):
            await asyncio.sleep(60)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_EVERY_S", 0.01)
    monkeypatch.setattr(health, "_EVERY_S_WHILE_AWAY", 0.01)
    monkeypatch.setattr(health, "_ANSWER_S_MAX", 0.05)


async def answered(services: dict[str, Service], rounds: int = 2) -> dict[str, str | None]:
    probes = Probes({name: service.check for name, service in services.items()})
    asking = asyncio.create_task(probes.run())
    async with asyncio.timeout(20):
        while min(service.asked for service in services.values()) <= rounds:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    asking.cancel()
    return dict(probes.readyz().needs)


def test_what_was_not_asked_yet_is_not_ready() -> None:
    assert Probes({"kafka": Service().check}).readyz() == Readiness({"kafka": "not asked yet"})


@pytest.mark.usefixtures("quick")
async def test_each_dependency_is_named_with_what_is_wrong_with_it() -> None:
    services = {
        "fine": Service(),
        "away": Service(HeadraceError("store_unreachable", "the store does not answer")),
        "silent": Service(TimeoutError()),
        "strange": Service(RuntimeError("with a canary")),
    }
    assert await answered(services) == {
        "fine": None,
        "away": "the store does not answer",
        "silent": "no answer within 0 s",
        "strange": "RuntimeError when it was asked",
    }


@pytest.mark.usefixtures("quick")
async def test_a_dependency_that_comes_back_is_ready_again() -> None:
    service = Service(HeadraceError("store_unreachable", "away"))
    probes = Probes({"store": service.check})
    asking = asyncio.create_task(probes.run())
    async with asyncio.timeout(20):
        while probes.readyz().needs != {"store": "away"}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        service.fault = None
        while probes.readyz().needs != {"store": None}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    asking.cancel()
