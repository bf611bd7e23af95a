"""Addresses that anybody may be sent to, as against those inside of somebody's network."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import anyio

from .base import Rejected

# Finds the addresses of a host and port.
Find = Callable[[str, int], Awaitable[list[str]]]


_GLOBAL_UNICAST = IPv6Network("2000::/3")  # no other IPv6 address is given out


# An IPv4 address stands inside of these, in the bits after the prefix or in the last ones.
_NAT64, _SIX_TO_FOUR = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")


_NOT_FOR_US = tuple(
    ip_network(cidr)
    for cidr in (
        "168.63.129.16/32",  # a cloud's metadata, on an address that looks public
        "192.0.0.0/24",  # protocols; a cloud has its metadata there
        "192.88.99.0/24",  # the relays of 6to4
        "2001::/23",  # protocols, Teredo among them
        "3fff::/20",  # documentation
    )
)


_MOST = 4  # addresses of a host that are tried


async def find_public(host: str, port: int) -> list[str]:
    """The addresses of `host`, at most four, all of them public.

    Raises:
        Rejected: One of all its addresses is not public.
        OSError: The host has no address, or nobody knows at present.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not all(map(is_public, addresses)):
        # Which one is not said: it would tell whoever chose the host about our network.
        raise Rejected(f"{host} leads to an address that is not public, and allow_private is off")
    return addresses[:_MOST]


def check_public(host: str) -> None:
    """Refuse a host that is itself an address, and not a public one.

    Raises:
        ValueError: It is one.
    """
    try:
        ip_address(host)
    except ValueError:
        return  # a name, whose addresses are looked up each time
    if not is_public(host):
        raise ValueError(
            f"allow_private=False refuses {host}, which is no public address: "
            "give a public one, or allow private addresses"
        )


def is_public(text: str) -> bool:
    """Whether an address is of the internet, and of no network of our own, or of the machine."""
    try:
        address = _unwrap(ip_address(text))
    except ValueError:
        return False
    if address.is_multicast or not address.is_global:
        return False
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _NOT_FOR_US)


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(address.packed[12:])
    return IPv4Address(address.packed[2:6]) if address in _SIX_TO_FOUR else address
