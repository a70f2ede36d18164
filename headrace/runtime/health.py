"""Health endpoints of a process: /metrics, /livez (whether it makes progress) and /readyz (each dependency by name).

/livez stays true while a dependency is unreachable, because a restart would not help. The server runs in its own
thread, so that it answers even if the event loop is blocked.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from headrace.runtime.errors import HeadraceError

Livez: TypeAlias = Callable[[], tuple[bool, str]]
Readyz: TypeAlias = Callable[[], Mapping[str, str | None]]

_REQUEST_S_MAX = 10
_EVERY_S = 2.0
_EVERY_S_WHILE_AWAY = 0.5  # so that a process becomes ready soon after its dependencies
_ANSWER_S_MAX = 5.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S_MAX

    def log_message(self, *_args: Any) -> None:
        """Log nothing, because probes are frequent."""


class HealthServer:
    """Serves /metrics, /livez and /readyz.

    `livez` returns whether the process makes progress, and the reason. `readyz` returns None for each dependency that
    answers, else the fault. Both are called from a thread and must not block.
    """

    def __init__(self, host: str, port: int, *, livez: Livez, readyz: Readyz) -> None:
        self._livez = livez
        self._readyz = readyz
        self._metrics = make_wsgi_app()
        try:
            self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_Handler)
        except OSError as error:
            raise HeadraceError(
                "health_port_taken",
                f"cannot listen for health checks: {error.strerror}",
                where=f"{host}:{port}",
                hint="choose another HEADRACE_HEALTH_PORT, or 0 for any free one",
            ) from None
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._server.server_port

    def start(self) -> None:
        """Start the server."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the server and free its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                metrics: Iterable[bytes] = self._metrics(environ, start_response)
                return metrics
            case "/livez":
                alive, why = self._livez()
                return _reply(start_response, alive, {"alive": alive, "why": why})
            case "/readyz":
                needs = self._readyz()
                ready = all(fault is None for fault in needs.values())
                return _reply(
                    start_response, ready, {"ready": ready, "needs": {k: v or "ok" for k, v in needs.items()}}
                )
            case _:
                return _reply(start_response, False, {"paths": ["/metrics", "/livez", "/readyz"]}, "404 Not Found")


def _reply(start_response: Any, good: bool, body: object, bad: str = "503 Service Unavailable") -> Iterable[bytes]:  # noqa: FBT001
    start_response("200 OK" if good else bad, [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


class Probes:
    """Probes each dependency every two seconds, and more often while one is unreachable, so that `/readyz` never waits.

    A probe raises if its service does not answer.
    """

    def __init__(self, probes: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        self._probes = probes
        self._faults: dict[str, str | None] = dict.fromkeys(probes, "not asked yet")

    def readyz(self) -> Mapping[str, str | None]:
        """Return None for each dependency that answers, else the fault."""
        return dict(self._faults)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await asyncio.gather(*(self._ask(name, probe) for name, probe in self._probes.items()))
            away = any(fault is not None for fault in self._faults.values())
            await asyncio.sleep(_EVERY_S_WHILE_AWAY if away else _EVERY_S)

    async def _ask(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                await probe()
        except TimeoutError:
            self._faults[name] = f"no answer within {_ANSWER_S_MAX:.0f} s"
        except HeadraceError as error:
            self._faults[name] = error.what
        except Exception as error:  # noqa: BLE001 - an unexpected error must not end the probing
            self._faults[name] = f"{type(error).__name__} when it was asked"
        else:
            self._faults[name] = None
