"""IP addresses as packed bytes, so that one client is one key however its address is written."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in IPv6 clothes


def pack(text: str) -> bytes | None:
    """The 4 or 16 bytes of an address, or None for what is not one.

    An IPv4 address that is mapped into IPv6 gives its 4 bytes; a zone (`%eth0`) is dropped.
    """
    try:
        return inet_pton(AF_INET, text)
    except (OSError, ValueError):
        pass
    try:
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


def pack_with_port(text: str) -> bytes | None:
    """As `pack`, for the forms that proxies write: `1.2.3.4:80`, `[2001:db8::1]:80`, `[::1]`."""
    text = text.strip()
    if text.startswith("["):
        return pack(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return pack(text)


def grouping(ipv6_prefix: int) -> Callable[[bytes], bytes]:
    """A function that cuts IPv6 addresses to the network that one subscriber is given.

    Raises:
        ValueError: `ipv6_prefix` is not a whole number from 16 to 128.
    """
    if type(ipv6_prefix) is not int or not 16 <= ipv6_prefix <= 128:
        raise ValueError(f"ipv6_prefix must be a whole number from 16 to 128, got {ipv6_prefix!r}")
    whole, bits = divmod(ipv6_prefix, 8)
    mask = 0xFF00 >> bits & 0xFF

    def group(packed: bytes) -> bytes:
        if len(packed) == 4:
            return packed
        kept = packed[:whole]
        if bits:
            kept += bytes((packed[whole] & mask,))
        return kept + b"/"  # so that four bytes of it are no IPv4 address

    return group


class Networks:
    """A set of networks, such as the proxies that may say who the client is.

    Args:
        cidrs: Networks or single addresses, such as "10.0.0.0/8" or "2001:db8::1".

    Raises:
        ValueError: One of `cidrs` is not a network.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        if isinstance(cidrs, str):
            raise ValueError(f"trusted must be a list of networks, got the single string {cidrs!r}")
        self._networks = [_network(cidr) for cidr in cidrs]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, packed: bytes) -> bool:
        number = int.from_bytes(packed)
        size = len(packed)
        return any(
            size == length and number & mask == first for first, mask, length in self._networks
        )


def _network(cidr: str) -> tuple[int, int, int]:
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise ValueError(
            f"trusted network {cidr!r} is not one: expected an address or a network "
            f"such as '10.0.0.0/8' or '2001:db8::/32' ({error})"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:  # peers are unwrapped too
        network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return int(network.network_address), int(network.netmask), network.max_prefixlen // 8
