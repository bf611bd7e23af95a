"""Protection against server-side request forgery: only public addresses are allowed."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import anyio

from .base import Rejected

# Returns the addresses of a host and port.
Resolve = Callable[[str, int], Awaitable[list[str]]]

_MAX_ADDRESSES = 4  # of a host
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # the only block of public IPv6 addresses
# IPv6 addresses that embed an IPv4 address, after the prefix or in the last bits.
_NAT64, _SIX_TO_FOUR = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")
_RESERVED = tuple(
    ip_network(cidr)
    for cidr in (
        "168.63.129.16/32",  # metadata of a cloud, though the address is public
        "192.0.0.0/24",  # protocol assignments, and metadata of a cloud
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, such as Teredo
        "3fff::/20",  # documentation
    )
)


async def resolve_public(host: str, port: int) -> list[str]:
    """Return the addresses of `host`, at most four, if all of its addresses are public.

    Raises:
        Rejected: An address is not public.
        OSError: The host has no address, or the lookup failed.
    """
    results = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in results))
    if not all(map(is_public, addresses)):
        # The address is not shown: users who choose the host would learn about the network.
        raise Rejected(f"{host} has an address that is not public, and allow_private is False")
    return addresses[:_MAX_ADDRESSES]


def check_public(host: str) -> None:
    """Raise ValueError if `host` is an address that is not public."""
    try:
        ip_address(host)
    except ValueError:
        return  # a name, which is looked up in each attempt
    if not is_public(host):
        raise ValueError(
            f"host of url must be public if allow_private is False, got {host}: "
            "use a public address, or allow private addresses"
        )


def is_public(text: str) -> bool:
    """Return True if `text` is a public address, not one of a private network or this machine."""
    try:
        address = _unwrap(ip_address(text))
    except ValueError:
        return False
    if address.is_multicast or not address.is_global:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _RESERVED)


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address embeds, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(address.packed[12:])
    return IPv4Address(address.packed[2:6]) if address in _SIX_TO_FOUR else address
