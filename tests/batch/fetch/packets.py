"""What this process asks the network for, as the interpreter itself reports it before it is done.

An audit hook hears every connect, every datagram and every look-up, whichever library or thread asks, and cannot be
removed; so it is there once for the process, and listens only while a test does.
"""

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_NUMERIC = {None, "127.0.0.1", "::1"}  # a look-up of these asks nobody


class PacketRefusedError(Exception):
    """Something would have left this machine."""


@dataclass
class Watch:
    """`connected`: addresses that sockets were connected to, in order. `refused`: what would have left the machine."""

    connected: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def hear(self, event: str, args: tuple[object, ...]) -> None:
        """Note one request, and raise PacketRefusedError unless it stays on loopback."""
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            address = args[1]
            if not isinstance(address, tuple):
                return  # a Unix socket, or one that was connected before
            host = str(address[0])
            if event == "socket.connect":
                self.connected.append(host)
            is_fine = ipaddress.ip_address(host).is_loopback
        else:
            host = str(args[0])
            is_fine = args[0] in _NUMERIC
        if not is_fine:
            self.refused.append(f"{event} {host}")
            raise PacketRefusedError(f"a packet would have left this machine: {event} {host}")


_EVENTS = frozenset(
    {
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.getnameinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
    }
)
_watching: list[Watch] = []
_installed: list[bool] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _watching and event in _EVENTS:
        _watching[-1].hear(event, args)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch for the while, and fail at its end if anything would have left, even where nobody saw the error."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    watch = Watch()
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)
    assert watch.refused == []
