"""Which network addresses may be connected to: the public internet's, and those of networks that an operator listed.

An IPv6 address that carries an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64) is as good as that one. No I/O.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")
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
        return False  # also one with a zone, which only a link-local address has
    if _is_listed(found, networks):
        return True
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
    if address in _COMPATIBLE or any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & _LOW_32_BITS)


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not getattr(address, "is_site_local", False)


def _is_listed(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
