"""Health endpoints of a process: /metrics, /livez (whether it makes progress) and /readyz (each dependency by name).

A process is ready where everything that it needs answers, also while an optional service is away: then it is degraded.

/livez stays true while a dependency is unreachable, because a restart would not help. The server runs in its own
thread, so that it answers even if the event loop is blocked.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, Literal, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from headrace.runtime.errors import HeadraceError

Livez: TypeAlias = Callable[[], tuple[bool, str]]
ReadyState: TypeAlias = Literal["ready", "degraded", "not ready", "draining"]
Readyz: TypeAlias = Callable[[], "Readiness"]

OPTIONAL = frozenset({"redis"})
"""The services without which a process works: each gateway then counts and caches alone."""

_REQUEST_S_MAX = 10
_EVERY_S = 2.0
_EVERY_S_WHILE_AWAY = 0.5  # so that a process becomes ready soon after its dependencies
_ANSWER_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """The fault of each dependency, None where it answers; those in OPTIONAL only degrade the process."""

    needs: Mapping[str, str | None]
    draining: bool = False

    @property
    def state(self) -> ReadyState:
        """Whether the process takes requests, and whether something is missing."""
        faulty = {name for name, fault in self.needs.items() if fault is not None}
        if self.draining:
            return "draining"
        if faulty - OPTIONAL:
            return "not ready"
        return "degraded" if faulty else "ready"

    @property
    def is_ready(self) -> bool:
        """Whether the process takes requests."""
        return self.state in {"ready", "degraded"}

    def shown(self) -> dict[str, str]:
        """Return each dependency with `ok` or its fault."""
        return {name: fault or "ok" for name, fault in self.needs.items()}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S_MAX

    def log_message(self, *_args: Any) -> None:
        """Log nothing, because probes are frequent."""


class HealthServer:
    """Serves /metrics, /livez and /readyz.

    `livez` returns whether the process makes progress, and the reason. It and `readyz` are called from a thread and
    must not block.
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
                readiness = self._readyz()
                body = {"ready": readiness.is_ready, "state": readiness.state, "needs": readiness.shown()}
                return _reply(start_response, readiness.is_ready, body)
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
        self._draining = False

    def readyz(self) -> Readiness:
        """Return which dependencies answer."""
        return Readiness(dict(self._faults), self._draining)

    def drain(self) -> None:
        """Be ready no more: the process finishes what it has begun, and stops."""
        self._draining = True

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
