"""Connects only to addresses that were checked, which prevents DNS rebinding.

The resolver checks every address of a name and returns those; aiohttp caches them and connects without another look-up.
A host that is an IP address bypasses the resolver, so the socket factory checks the address of each connection again.
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Any

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from headrace.batch.fetch.errors import AddressRefusedError, ConnectionFailedError
from headrace.batch.fetch.policy import DNS_CACHE_HOSTS_MAX, DNS_CACHE_S
from headrace.runtime import addresses as address_rules
from headrace.runtime.addresses import Lookup, Network, is_allowed

CONNECTIONS_MAX = 256
_REFUSED = "the host has an address that is neither public nor in a listed network"


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses addresses that are not allowed."""

    def __init__(self, networks: Sequence[Network], lookup: Lookup) -> None:
        self._networks = networks
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            ConnectionFailedError: it has none. AddressRefusedError: one of them is not allowed.
        """
        del family  # returns both families
        try:
            addresses = await address_rules.resolve(host, port, self._networks, self._lookup)
        except address_rules.UnresolvedHostError:
            raise ConnectionFailedError("the host name does not resolve", where=host, may_pass=True) from None
        except address_rules.AddressNotAllowedError:
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
        """Do nothing: the resolver holds no resources."""


def create_connector(networks: Sequence[Network], lookup: Lookup, context: ssl.SSLContext) -> TCPConnector:
    """Return a connector that reaches only public addresses and those in `networks`."""

    def checked_socket(address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = address_info
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
