"""The sink and its service: addresses, answers and repetitions."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from headrace.ldo_sink import LdoSink
from headrace.ldo_sink import request as requests
from headrace.ldo_sink import sink as sinks
from headrace.ldo_sink.post import LdoService
from tests.ldo_sink.ldo_service import WAIT_S, Server


@pytest.mark.parametrize("url", ["", "data-ingestion:8001", "ftp://host", "http://", "http://host:port", "http://["])
def test_an_address_that_is_none_breaks_nothing_and_is_counted(
    sink_of: Callable[..., LdoSink], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = sink_of(url)
    assert not sink.send("a")
    assert sink.counts().dropped == {"no_address": 1}
    assert "DATA_INGESTION_URL is not usable" in caplog.text


def test_a_login_in_the_address_is_sent_as_basic_and_said_nowhere(
    server: Server, sink_of: Callable[..., LdoSink], caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [503]
    sink = sink_of(server.url.replace("//", "//edge:hr_s%40cret@"))
    sink.send("a")
    assert sink.flush(WAIT_S)
    assert {post.login for post in server.received} == {"Basic ZWRnZTpocl9zQGNyZXQ="}
    assert "503" in caplog.text
    assert "cret" not in caplog.text


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403, 404, 409, 302])
def test_what_may_pass_is_tried_again_under_the_same_key(
    server: Server, sink_of: Callable[..., LdoSink], status: int
) -> None:
    server.answers = [status, status]
    sink = sink_of(server.url)
    sink.send("a")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "a", "a"]
    assert len({post.key for post in server.received}) == 1
    assert (sink.counts().sent, sink.counts().dropped) == (1, {})


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_is_refused_is_counted_and_holds_up_nothing(
    server: Server, sink_of: Callable[..., LdoSink], status: int
) -> None:
    server.answers = [status]
    sink = sink_of(server.url)
    sink.send("a")
    sink.send("b")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "b"]
    assert (sink.counts().sent, sink.counts().dropped) == (1, {"refused": 1})


def test_a_service_that_refuses_a_video_while_it_comes_is_heard(sink_of: Callable[..., LdoSink]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.recv(1024)
                    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        sink = sink_of(f"http://127.0.0.1:{listening.getsockname()[1]}")
        sink.send("a", video=b"0" * 20_000_000)
        assert sink.flush(WAIT_S)
        assert sink.counts().dropped == {"refused": 1}
        listening.shutdown(socket.SHUT_RDWR)


def test_one_whose_first_request_is_still_at_work_lets_the_others_pass(
    server: Server, sink_of: Callable[..., LdoSink]
) -> None:
    server.pause.clear()
    server.answers = [409]
    sink = sink_of(server.url)
    for name in "abc":
        sink.send(name)
    server.pause.set()
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "b", "c", "a"]
    assert len({post.key for post in server.received}) == 3


def test_one_that_always_breaks_the_service_lets_the_others_pass(
    server: Server, sink_of: Callable[..., LdoSink]
) -> None:
    server.pause.clear()
    server.answers = [500] * sinks.ATTEMPTS_MAX
    sink = sink_of(server.url)
    for name in "abc":
        sink.send(name)
    server.pause.set()
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a"] * sinks.ATTEMPTS_MAX + ["b", "c", "a"]


def test_waits_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [requests.delay_s(failures, None, 1.0) for failures in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert requests.delay_s(10_000, "nonsense", 0.0) == 30
    assert requests.delay_s(1, "7", 1.0) == 7
    assert requests.delay_s(1, "86400", 1.0) == 60


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://u:p@host/prefix/", "https://host"),
        ("http://[::1]:8001", "http://[::1]:8001"),
        ("http://h", "http://h"),
    ],
)
def test_where_it_sends_is_said_without_the_login(url: str, where: str) -> None:
    assert LdoService(url).where == where
