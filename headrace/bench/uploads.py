"""Upload throughput of the gateway: many clients, each waiting until a file is durable before the next."""

import http.client
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from random import Random
from urllib.parse import urlsplit

from pydantic import SecretStr

from headrace.bench import bodies
from headrace.bench.processes import Bench, running
from headrace.initialize import initialize
from headrace.native.config import LOOPBACK, assign_ports
from headrace.runtime.errors import HeadraceError

CLIENTS = 32
_BOUNDARY = "headrace-bench"
_READY_S_MAX = 60.0
_ANSWER_S_MAX = 60.0
_POLL_S = 0.1
_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="source_id"\r\n\r\n%s\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
)
_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


@dataclass(slots=True)
class UploadFigures:
    """The seconds until each successful response, and the number of failed uploads."""

    answers_s: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0


def uploads(bench: Bench, seconds: float) -> UploadFigures:
    """Upload files of 200 KB with CLIENTS clients through a gateway, a worker and the relay.

    Raises:
        HeadraceError: the gateway does not become ready.
    """
    port = assign_ports(["gateway"], {})["gateway"]
    key = f"hr_bench{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    env = {
        "HEADRACE_GATEWAY_PORT": str(port),
        "HEADRACE_GATEWAY_INGEST_PER_MINUTE": "1000000",
        "HEADRACE_GATEWAY_REQUESTS_PER_MINUTE": "1000000",
        "HEADRACE_GATEWAY_ANSWER_S_MAX": str(_ANSWER_S_MAX),
    }
    initialize(bench.settings.model_copy(update={"gateway_admin_key": SecretStr(key)}))
    with ExitStack() as stack:
        commands = (("relay",), ("worker", "--kinds", "frames,clips"), ("gateway",))
        processes = [stack.enter_context(running(replace(bench, more=env), *command)) for command in commands]
        _wait_ready(port)
        _send(port, key, seconds=2.0, clients=4)  # warm-up: connections and imports
        for process in processes:
            process.sample(1)
        return _send(port, key, seconds=seconds, clients=CLIENTS)


def _send(port: int, key: str, *, seconds: float, clients: int) -> UploadFigures:
    figures = UploadFigures()
    began = time.monotonic()
    threads = [
        threading.Thread(target=_client, args=(port, key, number, began + seconds, figures))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures.seconds = time.monotonic() - began
    return figures


def _client(port: int, key: str, number: int, until: float, figures: UploadFigures) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_ANSWER_S_MAX * 2)
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "X-API-Key": key}
    for body in _forms(number):
        if time.monotonic() >= until:
            break
        began = time.monotonic()
        connection.request("POST", "/ingest", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status == http.client.OK:
            figures.answers_s.append(time.monotonic() - began)
        else:
            figures.failed += 1
    connection.close()


def _forms(number: int) -> Iterator[bytes]:
    image = bodies.small_jpeg()
    random = Random(time.time_ns() + number)  # noqa: S311 - incompressible, not secret
    head = (_HEAD % f"bench-{number % bodies.SOURCES}").encode()
    while True:
        yield head + image + random.randbytes(bodies.FRAME_BYTES - len(image)) + _TAIL


def _wait_ready(port: int) -> None:
    deadline = time.monotonic() + _READY_S_MAX
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(_POLL_S)
    raise HeadraceError(
        "gateway_not_ready",
        f"the gateway was not ready after {_READY_S_MAX:.0f} s",
        where=urlsplit(f"http://{LOOPBACK}:{port}").netloc,
    )
