"""Which network addresses may be connected to: the public internet's, and those of networks that an operator listed.

An IPv6 address that carries an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64, ISATAP) is as good as that one. Of
the others only 2000::/3 is public: IANA has given out nothing else as global unicast, and what stands outside of it has
local meanings, also those that a list of known networks would miss (IPv4-translated, a NAT64 prefix of one's own).
No I/O.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")
# IANA's registries say that these are not reachable from everywhere; Python 3.11 does not know it: protocol
# assignments, relays of 6to4, documentation (RFC 9637).
_NOT_GLOBAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214: before the IPv4 address in the lower half
_LOW_32_BITS = 0xFFFF_FFFF


def networks_of(text: str) -> tuple[Network, ...]:
    """Return networks from a comma-separated list of CIDRs.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_allowed(address: str, networks: Iterable[Network]) -> bool:
    """Say whether a numeric address may be connected to."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if _is_listed(found, networks):
        return True
    if getattr(found, "scope_id", None) is not None:
        return False  # a zone is a link of this machine's, whatever stands before it
    return all(_is_public(one) or _is_listed(one, networks) for one in (*_carried(found),) or (found,))


def _carried(address: Address) -> Iterator[Address]:
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _COMPATIBLE or address in _NAT64:
        yield IPv4Address(int(address) & _LOW_32_BITS)
    if int(address) >> 32 & _LOW_32_BITS in _ISATAP:
        # Its prefix may be anybody's, so it counts as well.
        yield address
        yield IPv4Address(int(address) & _LOW_32_BITS)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not address.is_multicast and not _is_listed(address, _NOT_GLOBAL)


def _is_listed(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


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
