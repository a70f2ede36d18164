"""Free ports on the loopback address.

They are taken from below the range that systems hand to outgoing connections (32768 and up on Linux, 49152 on macOS),
so that no client connection can sit on a server's port in the moment in which that server restarts.
"""

import secrets
import socket
from collections.abc import Iterable, Mapping

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 18_000, 32_000
_TRIES_MAX = 1_000


def is_free(port: int) -> bool:
    """Whether a server could listen there now; connections that linger from an earlier server do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def assign(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """Give each name a port of its own, its known one where that is still free.

    Raises OSError when the machine has no free port left.
    """
    ports: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        ports[name] = port if port and port not in ports.values() and is_free(port) else _choose(set(ports.values()))
    return ports


def _choose(taken: set[int]) -> int:
    for _ in range(_TRIES_MAX):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port between {_FIRST} and {_LAST}")
