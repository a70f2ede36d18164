"""From a host's name to the addresses that may be connected to; every one of them has to be allowed."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from headrace.runtime.addresses import Network, is_allowed

RESOLVE_S_MAX = 5.0

Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


class UnresolvedHostError(Exception):
    """The name has no address."""


class AddressNotAllowedError(Exception):
    """One of the addresses may not be connected to."""


async def system_lookup(host: str, port: int) -> list[str]:
    """Return the addresses that the machine's own resolver knows; raises OSError or UnicodeError where it fails."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


async def resolve(host: str, port: int, networks: Sequence[Network], lookup: Lookup = system_lookup) -> list[str]:
    """Return every address of a host, numeric.

    Raises:
        Unresolved: it has none, or nobody says so in time. AddressRefused: not every one of them is allowed, so that a
            name with a good and a bad one is refused too.
    """
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            found = await lookup(host, port)
    except (OSError, UnicodeError, TimeoutError):
        raise UnresolvedHostError from None
    addresses = list(dict.fromkeys(found))
    if not addresses:
        raise UnresolvedHostError
    if not all(is_allowed(address, networks) for address in addresses):
        raise AddressNotAllowedError
    return addresses
