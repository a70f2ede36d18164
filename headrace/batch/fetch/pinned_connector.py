"""Connections that go to the address that was checked, and to no other.

The resolver checks every address of a name and hands over those that it has checked; aiohttp keeps them for a while and
connects to them without asking anybody again. A host that is an address itself does not come by the resolver, so each
socket is checked once more when it is made, for the very address that it is about to connect to.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Any

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from headrace.batch.fetch.errors import AddressRefusedError, ConnectionFailedError
from headrace.batch.fetch.policy import DNS_CACHE_HOSTS_MAX, DNS_CACHE_S
from headrace.runtime import resolve
from headrace.runtime.addresses import Network, is_allowed
from headrace.runtime.resolve import Lookup

CONNECTIONS_MAX = 256
_REFUSED = "the host has an address that is neither public nor in a listed network"


class CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to."""

    def __init__(self, networks: Sequence[Network], lookup: Lookup) -> None:
        self._networks = networks
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            ConnectionFailed: it has none. AddressRefused: one of them is not allowed.
        """
        del family  # both are wanted
        try:
            addresses = await resolve.resolve(host, port, self._networks, self._lookup)
        except resolve.UnresolvedHostError:
            raise ConnectionFailedError("the host has no address", where=host, may_pass=True) from None
        except resolve.AddressNotAllowedError:
            raise AddressRefusedError(_REFUSED, where=host) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def connector(networks: Sequence[Network], lookup: Lookup, context: ssl.SSLContext) -> TCPConnector:
    """Return what connects a session."""

    def checked_socket(about: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = about
        if not is_allowed(address[0], networks):
            raise AddressRefusedError(_REFUSED, where=str(address[0]))
        return socket.socket(family, kind, protocol)

    return TCPConnector(
        resolver=CheckedResolver(networks, lookup),
        socket_factory=checked_socket,
        ssl=context,
        ttl_dns_cache=DNS_CACHE_S,
        dns_cache_max_size=DNS_CACHE_HOSTS_MAX,
        limit=CONNECTIONS_MAX,
    )
