"""From a camera's name to the addresses that may be connected to; asked for at the gateway, and again by the worker."""

import asyncio
import socket
from collections.abc import Sequence

from runtime.addresses import Network, is_allowed

RESOLVE_S_MAX = 5.0


class Unresolved(Exception):  # noqa: N818 - what was found
    """The name has no address."""


class AddressRefused(Exception):  # noqa: N818 - a verdict
    """One of the addresses may not be connected to."""


async def resolve(host: str, port: int, networks: Sequence[Network]) -> list[str]:
    """Return every address of a host, numeric.

    Raises:
        Unresolved: it has none, or nobody says so in time. AddressRefused: not every one of them is allowed, so that a
            name with a good and a bad one is refused too.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise Unresolved from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    if not addresses:
        raise Unresolved
    if not all(is_allowed(address, networks) for address in addresses):
        raise AddressRefused
    return addresses
