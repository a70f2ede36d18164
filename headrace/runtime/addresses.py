"""The network addresses that may be connected to: public ones, and those of networks that an operator listed.

An IPv6 address that embeds an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64, ISATAP) is allowed if that one is.
Of the others only 2000::/3 is public: IANA has assigned no other global unicast space, and addresses outside of it may
have a local meaning (IPv4-translated, a local NAT64 prefix). Only `resolve` does I/O; a name is allowed only if all of
its addresses are.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")
# Not globally reachable according to IANA's registries, but global in Python 3.11: protocol assignments, 6to4 relays,
# documentation (RFC 9637).
_NOT_GLOBAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))
# RFC 1918, RFC 6598 (also what overlay networks use), RFC 4193, loopback and link-local.
_PRIVATE_4 = tuple(
    map(
        IPv4Network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    )
)
_PRIVATE_6 = tuple(map(IPv6Network, ("fc00::/7", "fe80::/10", "::1/128")))
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214: before the IPv4 address in the lower half
_LOW_32_BITS = 0xFFFF_FFFF


def networks_of(text: str, site: str = "") -> tuple[Network, ...]:
    """Return the networks that a comma-separated list grants to a site.

    An entry is a CIDR, which every site may use, or `site=CIDR` for one site.

    Raises:
        ValueError: an entry is not a network.
    """
    entries = [entry.rpartition("=") for entry in text.split(",") if entry.strip()]
    networks = [(of.strip(), ip_network(network.strip())) for of, _, network in entries]
    return tuple(network for of, network in networks if of in {"", site})


def site_networks(text: str, default_site: str) -> tuple[tuple[Network, str], ...]:
    """Return the networks of such a list, each with its site; the smallest first, so that the first match counts.

    Raises:
        ValueError: an entry is not a network, or not a private one.
    """
    entries = [entry.rpartition("=") for entry in text.split(",") if entry.strip()]
    networks = [(ip_network(network.strip()), site.strip() or default_site) for site, _, network in entries]
    if not all(_is_private(network) for network, _ in networks):
        raise ValueError("not a private network")
    return tuple(sorted(networks, key=lambda entry: entry[0].prefixlen, reverse=True))


def _is_private(network: Network) -> bool:
    if isinstance(network, IPv4Network):
        return any(network.subnet_of(private) for private in _PRIVATE_4)
    return any(network.subnet_of(private) for private in _PRIVATE_6)


def is_in(address: str, network: Network) -> bool:
    """Return whether a client's address belongs to a network."""
    parsed = client_address(address)
    return parsed is not None and _is_listed(parsed, [network])


def client_address(text: str) -> Address | None:
    """Return a client's numeric address without its zone, an IPv4-mapped one as IPv4; None for any other text."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed


def authority_of(host: str, port: int, default_port: int) -> str:
    """Return a URL's authority: the host, an IPv6 address in brackets, and the port unless it is the default."""
    name = f"[{host}]" if ":" in host else host
    return name if port == default_port else f"{name}:{port}"


def is_allowed(address: str, networks: Iterable[Network]) -> bool:
    """Return whether a numeric address may be connected to."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if _is_listed(parsed, networks):
        return True
    if getattr(parsed, "scope_id", None) is not None:
        return False  # an address with a zone is link-local
    return all(_is_public(part) or _is_listed(part, networks) for part in (*_embedded(parsed),) or (parsed,))


def _embedded(address: Address) -> Iterator[Address]:
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
        # The prefix is arbitrary, so the whole address is checked as well.
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
    """Raised when a name has no address."""


class AddressNotAllowedError(Exception):
    """Raised when an address may not be connected to."""


async def system_lookup(host: str, port: int) -> list[str]:
    """Return the addresses from the system resolver; raises OSError or UnicodeError."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


async def resolve(host: str, port: int, networks: Sequence[Network], lookup: Lookup = system_lookup) -> list[str]:
    """Return all addresses of a host, in numeric form.

    Raises:
        UnresolvedHostError: the host has none, or the resolver timed out.
        AddressNotAllowedError: an address is not allowed.
    """
    try:
        async with asyncio.timeout(RESOLVE_S_MAX):
            resolved = await lookup(host, port)
    except (OSError, UnicodeError, TimeoutError):
        raise UnresolvedHostError from None
    addresses = list(dict.fromkeys(resolved))
    if not addresses:
        raise UnresolvedHostError
    if not all(is_allowed(address, networks) for address in addresses):
        raise AddressNotAllowedError
    return addresses
