"""A network of its own for some processes, joined to this one by a cable that can be pulled.

Servers here are known by their addresses on 127.0.0.1, and Kafka tells its clients that address as well. So inside the
namespace a Toxiproxy listens on the same ports of its own 127.0.0.1 and leads over the cable to a Toxiproxy on this
side, which leads on to the servers. The one on this side also separates a single pair, one way or both.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults import toxiproxy
from tests.faults.possible import NotPossibleError
from tests.faults.toxiproxy import Toxiproxy

_ANSWER_S_MAX = 20


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace; `near` is this side's address on the cable, `far` the other's."""

    name: str
    device: str
    near: str
    far: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What comes before a command that is to run inside."""
        return (_program(), "netns", "exec", self.name)

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Pull the cable: nothing passes, and nobody is told."""
        _ip("link", "set", self.device, "down")
        try:
            yield
        finally:
            _ip("link", "set", self.device, "up")

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Let what this side sends get lost; what the other sends still arrives."""
        with _route("blackhole", f"{self.far}/32"):
            yield

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Let what the other side sends get lost; what this side sends still arrives."""
        with _route("blackhole", f"{self.near}/32", inside=self.name):
            yield

    @contextmanager
    def lossy(self, percent: int) -> Iterator[None]:
        """Lose so many of a hundred packets to the other side.

        Raises NotPossibleError where the machine has no netem.
        """
        shaper = ("dev", self.device, "root", "netem")
        _tc("add", *shaper, "loss", f"{percent}%")
        try:
            yield
        finally:
            _tc("del", *shaper)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace, and leave nothing of it behind.

    Raises NotPossibleError where this process may not.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NotPossibleError("a network namespace needs root and the program `ip`")
    token = secrets.token_hex(3)
    net = f"10.{128 + secrets.randbelow(127)}.{secrets.randbelow(255)}"
    made = Namespace(f"headrace-{token}", f"hr{token}", f"{net}.1", f"{net}.2")
    peer = f"hr{token}p"
    with ExitStack() as stack:
        _ip("netns", "add", made.name)
        stack.callback(_ip, "netns", "del", made.name)
        _ip("link", "add", made.device, "type", "veth", "peer", "name", peer)
        stack.callback(_ip, "link", "del", made.device)
        _ip("link", "set", peer, "netns", made.name)
        _ip("address", "add", f"{made.near}/30", "dev", made.device)
        _ip("link", "set", made.device, "up")
        _ip("-n", made.name, "address", "add", f"{made.far}/30", "dev", peer)
        for device in ("lo", peer):
            _ip("-n", made.name, "link", "set", device, "up")
        if subprocess.run([*made.prefix, "true"], check=False, capture_output=True).returncode != 0:
            raise NotPossibleError("this process may not enter a network namespace")
        yield made


@contextmanager
def joined(space: Namespace, servers: Mapping[str, int], directory: Path) -> Iterator[Toxiproxy]:
    """Lead the servers' ports into the namespace; yields the Toxiproxy on this side, with a proxy for each name."""
    config = directory / f"{space.name}.json"
    config.write_text(json.dumps([_forward(name, port, space) for name, port in servers.items()]))
    with toxiproxy.opened() as near, toxiproxy.running("-config", str(config), prefix=space.prefix):
        for name, number in servers.items():
            near.create(name, number, f"127.0.0.1:{number}", host=space.near)
        yield near


def _forward(name: str, port: int, space: Namespace) -> dict[str, object]:
    return {"name": name, "listen": f"127.0.0.1:{port}", "upstream": f"{space.near}:{port}", "enabled": True}


@contextmanager
def _route(kind: str, to: str, *, inside: str = "") -> Iterator[None]:
    where = ("-n", inside) if inside else ()
    _ip(*where, "route", "add", kind, to)
    try:
        yield
    finally:
        _ip(*where, "route", "del", kind, to)


def _ip(*args: str) -> None:
    done = subprocess.run([_program(), *args], check=False, capture_output=True, text=True, timeout=_ANSWER_S_MAX)
    if done.returncode != 0:
        raise NotPossibleError(f"`ip {' '.join(args)}` failed: {done.stderr.strip()[:200]}")


def _tc(verb: str, *args: str) -> None:
    program = shutil.which("tc")
    if program is None:
        raise NotPossibleError("losing packets needs the program `tc`")
    argv = [program, "qdisc", verb, *args]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_ANSWER_S_MAX)
    if done.returncode != 0:
        raise NotPossibleError(f"losing packets needs the kernel's netem: {done.stderr.strip()[:200]}")


def _program() -> str:
    return shutil.which("ip") or "ip"
