import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from urllib.parse import urlsplit

from tests.faults.registry import experiment
from tests.faults.world import FaultsWorld

LASTS_S = (3.0, 9.0)
_APART_S = (1.0, 3.0)
_CUT_BYTES = 40_000
_SLOW_KB_S = 50
_RESET_MS = 20
_LATENCY_MS = 5000


@experiment("E7", "store: killed, 503, black hole, reset, cut mid-body, 5 s latency, 50 KB/s", ci=7, long=200)
def harm_the_store(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Let the store be away, refuse, hang, cut and crawl, one after another."""
    kinds: list[Callable[[FaultsWorld, float], None]] = []
    for _ in range(count):
        if not kinds:
            kinds = [_killed, _refusing, _black_hole, _reset, _cut, _late, _slow]
            random.shuffle(kinds)
        kinds.pop()(world, random.uniform(*LASTS_S))
        world.wait_servers()
        time.sleep(random.uniform(*_APART_S))
    return Counter()


def _killed(world: FaultsWorld, _seconds: float) -> None:
    process = world.server("minio")
    if process is not None:
        with world.fault("store killed"):
            process.send_signal(signal.SIGKILL)
            time.sleep(1)
            world.wait_servers()


def _refusing(world: FaultsWorld, seconds: float) -> None:
    real = f"127.0.0.1:{urlsplit(world.settings.store_endpoint).port}"
    with world.fault("store 503"), _answering_503() as address:
        try:
            world.proxies.set_upstream("store", address)
            time.sleep(seconds)
        finally:
            world.proxies.set_upstream("store", real)


def _black_hole(world: FaultsWorld, seconds: float) -> None:
    with world.fault("store black hole"), world.proxies.black_hole("store"):
        time.sleep(seconds)


def _cut(world: FaultsWorld, seconds: float) -> None:
    with world.fault("store cut mid-body"), world.proxies.limit_data("store", _CUT_BYTES, stream="upstream"):
        time.sleep(seconds)


def _reset(world: FaultsWorld, seconds: float) -> None:
    with world.fault("store reset"), world.proxies.reset_peer("store", _RESET_MS):
        time.sleep(seconds)


def _late(world: FaultsWorld, seconds: float) -> None:
    with world.fault("store 5 s late"), world.proxies.latency("store", _LATENCY_MS):
        time.sleep(seconds + 2 * _LATENCY_MS / 1000)  # long enough for answers to arrive, late


def _slow(world: FaultsWorld, seconds: float) -> None:
    with world.fault("store 50 KB/s"), world.proxies.bandwidth("store", _SLOW_KB_S):
        time.sleep(seconds)


class _Refusing(BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # who was sending a large body may have gone
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _refuse  # noqa: N815 - the names that the server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's own name
        """Say nothing."""


@contextmanager
def _answering_503() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
