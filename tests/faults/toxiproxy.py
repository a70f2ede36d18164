"""Toxiproxy: a TCP proxy that can be told to be slow, deaf or cut off. How it is had, and a client for its interface.

Version 2.12.0 can freeze with all of its interface when a toxic is put into a connection, or taken out of one, whose
other side has gone (Shopify/toxiproxy#558). So no toxic ever meets a connection that is there: the proxy goes and comes
back with the toxic in it. Each fault begins and ends with all connections cut, which is a part of it; faults of live
connections are made by stopping the server's process instead.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from headrace.native.minio import BuildError, GoProgram, go_install
from headrace.runtime.errors import Exit, HeadraceError
from tests.processes import ends_with_this_process, free_port

VERSION = "v2.12.0"

Stream: TypeAlias = Literal["upstream", "downstream"]
"""From the client to the server, or back."""

_PROGRAM = GoProgram("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server", VERSION)
_ANSWER_S_MAX = 15.0
_READY_S_MAX = 20.0
_STOP_S_MAX = 5.0
_POLL_S = 0.05
_BOTH: tuple[Stream, ...] = ("upstream", "downstream")


def binary(progress: Callable[[str], None] | None = None) -> Path:
    """Return the server's program: PATH's, or the one that was built before, or a fresh build (a minute, once).

    Raises HeadraceError when it cannot be had.
    """
    installed = shutil.which("toxiproxy-server")
    if installed:
        return Path(installed)
    if _PROGRAM.built.is_file():
        return _PROGRAM.built
    go = shutil.which("go")
    if go is None:
        raise _missing("there is no Toxiproxy on this machine, and no Go to build it with")
    try:
        return go_install(_PROGRAM, go, progress or _say)
    except BuildError as error:
        raise _missing(f"Toxiproxy could not be built: {error}") from None


@contextmanager
def running(*args: str, prefix: Sequence[str] = ()) -> Iterator[None]:
    """Run the server with these arguments, behind a command such as `ip netns exec`, while the context lasts."""
    argv = [*prefix, str(binary()), "-host", "127.0.0.1", *args]
    process = subprocess.Popen(
        ends_with_this_process(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def opened() -> Iterator["Toxiproxy"]:
    """Run one without proxies yet, on a free port, and yield it once it answers."""
    port = free_port()
    with running("-port", str(port)):
        yield Toxiproxy(port).wait()


class Toxiproxy:
    """A running Toxiproxy whose interface listens on `port`. Every method raises OSError where it does not answer."""

    def __init__(self, port: int) -> None:
        """Name it without asking it anything."""
        self._address = f"http://127.0.0.1:{port}"
        self._addresses: dict[str, tuple[str, str]] = {}

    def wait(self) -> "Toxiproxy":
        """Wait until it answers."""
        deadline = time.monotonic() + _READY_S_MAX
        while True:
            try:
                self._ask("GET", "/version")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return self

    def create(self, name: str, listen_port: int, upstream: str, *, host: str = "127.0.0.1") -> None:
        """Make a proxy that leads from `host` and `listen_port` to `upstream` (host:port)."""
        self._addresses[name] = (f"{host}:{listen_port}", upstream)
        self._begin(name)

    def set_upstream(self, name: str, upstream: str) -> None:
        """Let the proxy lead elsewhere; its connections are cut."""
        self._end(name)
        self._addresses[name] = (self._addresses[name][0], upstream)
        self._begin(name)

    def cut(self, name: str) -> None:
        """Cut every connection once; new ones are accepted at once."""
        self._end(name)
        self._begin(name)

    @contextmanager
    def cut_off(self, name: str) -> Iterator[None]:
        """Cut every connection, and refuse new ones."""
        self._end(name)
        try:
            yield
        finally:
            self._begin(name)

    @contextmanager
    def latency(self, name: str, ms: int, jitter_ms: int = 0, *, stream: Stream = "downstream") -> Iterator[None]:
        """Let everything arrive late, give or take the jitter."""
        with self._toxics(name, "latency", {"latency": ms, "jitter": jitter_ms}, stream):
            yield

    @contextmanager
    def bandwidth(self, name: str, kb_s: int, *, stream: Stream | None = None) -> Iterator[None]:
        """Let no more than so many kilobytes pass in a second; both ways unless told otherwise."""
        with self._toxics(name, "bandwidth", {"rate": kb_s}, stream):
            yield

    @contextmanager
    def black_hole(self, name: str, *, stream: Stream | None = None) -> Iterator[None]:
        """Swallow everything and close nothing; both ways unless told otherwise."""
        with self._toxics(name, "timeout", {"timeout": 0}, stream):
            yield

    @contextmanager
    def reset_peer(self, name: str, ms: int = 0, *, stream: Stream = "upstream") -> Iterator[None]:
        """Reset each connection so many milliseconds after its first byte."""
        with self._toxics(name, "reset_peer", {"timeout": ms}, stream):
            yield

    @contextmanager
    def limit_data(self, name: str, bytes_max: int, *, stream: Stream = "downstream") -> Iterator[None]:
        """Close each connection after so many bytes."""
        with self._toxics(name, "limit_data", {"bytes": bytes_max}, stream):
            yield

    @contextmanager
    def _toxics(self, name: str, kind: str, attributes: Mapping[str, int], stream: Stream | None) -> Iterator[None]:
        toxics = [
            {
                "name": f"{kind}-{direction}",
                "type": kind,
                "stream": direction,
                "toxicity": 1.0,
                "attributes": attributes,
            }
            for direction in ((stream,) if stream else _BOTH)
        ]
        if name not in self._addresses:
            raise OSError(f"there is no proxy {name}")
        self._end(name)
        try:
            self._begin(name, toxics)
            yield
        finally:
            self.cut(name)

    def _begin(self, name: str, toxics: Sequence[object] = ()) -> None:
        """Make the proxy, and let it listen once its toxics are in it."""
        listen, upstream = self._addresses[name]
        self._ask("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream, "enabled": False})
        for toxic in toxics:
            self._ask("POST", f"/proxies/{name}/toxics", toxic)
        self._ask("POST", f"/proxies/{name}", {"enabled": True})

    def _end(self, name: str) -> None:
        if name in self._ask("GET", "/proxies"):
            self._ask("DELETE", f"/proxies/{name}")

    def _ask(self, method: str, path: str, content: object = None) -> dict[str, object]:
        data = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S_MAX) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"Toxiproxy refused {method} {path}: {error.read().decode(errors='replace')}") from None
        return dict(json.loads(text)) if text else {}


def _missing(what: str) -> HeadraceError:
    return HeadraceError(
        "toxiproxy_missing",
        what,
        hint=f"install Go 1.23 or newer and see that its module proxy is reachable, or put a `toxiproxy-server` "
        f"{VERSION} on PATH",
        exit_code=Exit.UNREACHABLE,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
