"""Toxiproxy itself, in front of a server that says back what it hears."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults import toxiproxy
from tests.faults.toxiproxy import Toxiproxy
from tests.processes import free_port

pytestmark = pytest.mark.server

ANSWER_S_MAX = 5.0
DEAF_S = 0.7


class Echo(socketserver.BaseRequestHandler):
    greeting = b""

    def handle(self) -> None:
        self.request.sendall(self.greeting)
        while heard := self.request.recv(65536):
            self.request.sendall(heard)


class Other(Echo):
    greeting = b"other:"


@pytest.fixture(scope="module")
def proxies() -> Iterator[Toxiproxy]:
    with toxiproxy.opened() as opened:
        yield opened


def serve(handler: type[Echo]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    yield from serve(Echo)


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    yield from serve(Other)


@pytest.fixture
def port(proxies: Toxiproxy, echo: str) -> int:
    port = free_port()
    proxies.create(f"echo-{port}", port, echo)
    return port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), ANSWER_S_MAX)


def heard(connection: socket.socket, payload: bytes) -> bytes:
    connection.sendall(payload)
    got = b""
    while len(got) < len(payload) and (more := connection.recv(65536)):
        got += more
    return got


def took_s(connection: socket.socket, payload: bytes) -> float:
    began = time.monotonic()
    assert heard(connection, payload) == payload
    return time.monotonic() - began


def works(port: int) -> bool:
    with closing(connect(port)) as connection:
        return heard(connection, b"again") == b"again"


def test_it_leads_to_the_server_until_it_is_told_otherwise(proxies: Toxiproxy, port: int, other: str) -> None:
    assert works(port)
    proxies.set_upstream(f"echo-{port}", other)
    with closing(connect(port)) as connection:
        assert connection.recv(6) == b"other:"


def test_latency_makes_an_answer_late(proxies: Toxiproxy, port: int) -> None:
    with proxies.latency(f"echo-{port}", 400), closing(connect(port)) as connection:
        assert took_s(connection, b"late") > 0.35
    assert works(port)


def test_a_fault_begins_with_a_cut(proxies: Toxiproxy, port: int) -> None:
    with closing(connect(port)) as connection:
        assert heard(connection, b"x") == b"x"
        with proxies.latency(f"echo-{port}", 1):
            assert connection.recv(1) == b""


def test_bandwidth_makes_it_slow(proxies: Toxiproxy, port: int) -> None:
    with proxies.bandwidth(f"echo-{port}", 100, stream="upstream"), closing(connect(port)) as connection:
        assert took_s(connection, bytes(60_000)) > 0.4
    assert works(port)


def test_reset_ends_a_connection_with_an_error(proxies: Toxiproxy, port: int) -> None:
    with proxies.reset_peer(f"echo-{port}"), closing(connect(port)) as connection:
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert works(port)


@pytest.mark.parametrize("stream", [None, "upstream", "downstream"])
def test_a_black_hole_swallows_and_closes_nothing(
    proxies: Toxiproxy, port: int, stream: toxiproxy.Stream | None
) -> None:
    with proxies.black_hole(f"echo-{port}", stream=stream), closing(connect(port)) as connection:
        connection.settimeout(DEAF_S)
        connection.sendall(b"y")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert works(port)


def test_limit_data_closes_in_the_middle(proxies: Toxiproxy, port: int) -> None:
    with proxies.limit_data(f"echo-{port}", 1000, stream="upstream"), closing(connect(port)) as connection:
        assert len(heard(connection, bytes(5000))) <= 1000
    assert works(port)


def test_a_cut_ends_what_is_there_and_lets_new_ones_in(proxies: Toxiproxy, port: int) -> None:
    with closing(connect(port)) as connection:
        assert heard(connection, b"x") == b"x"
        proxies.cut(f"echo-{port}")
        assert connection.recv(1) == b""
    assert works(port)


def test_a_proxy_that_is_unknown_is_an_error(proxies: Toxiproxy) -> None:
    with pytest.raises(OSError, match="there is no proxy nobody"), proxies.latency("nobody", 1):
        pass


def test_taking_a_toxic_away_while_connections_stall_freezes_nothing(proxies: Toxiproxy, port: int) -> None:
    for _ in range(10):
        with proxies.bandwidth(f"echo-{port}", 1):
            connections = [connect(port) for _ in range(5)]
            for connection in connections:
                connection.sendall(bytes(30_000))
            for connection in connections[:3]:
                connection.close()
        for connection in connections[3:]:
            connection.close()
        assert works(port)
