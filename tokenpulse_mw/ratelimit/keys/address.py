"""IP addresses as packed bytes, so that one client is one key however its address is written."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton

# Prefixes that an IPv4 address stands right behind: it is in IPv6 clothes.
_WRAPPINGS = (
    bytes(10) + b"\xff\xff",  # ::ffff:0:0/96, mapped (RFC 4291): how a dual-stack socket tells it
    b"\x00\x64\xff\x9b" + bytes(8),  # 64:ff9b::/96, NAT64 (RFC 6052)
    b"\x20\x02",  # 2002::/16, 6to4 (RFC 3056), where all that follows is one subscriber's
)
_MARK = b"::/"  # behind the first bytes of a network, and before its prefix
_NO_ADDRESS = "unix"  # as a network: the peers that have no address, packed as no bytes


def pack(text: str) -> bytes | None:
    """The 4 or 16 bytes of an address, or None for what is not one.

    An IPv4 address that is mapped into IPv6, or came by NAT64 or 6to4, gives its 4 bytes; a zone
    (`%eth0`) is dropped.
    """
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    if packed.startswith(_WRAPPINGS):
        return packed[2:6] if packed[0] else packed[12:]
    return packed


def pack_with_port(text: str) -> bytes | None:
    """As `pack`, for the forms that proxies write: `1.2.3.4:80`, `[2001:db8::1]:80`, `[::1]`."""
    text = text.strip()
    if text.startswith("["):
        return pack(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return pack(text)


def network_grouper(ipv6_prefix: int) -> Callable[[bytes], bytes]:
    """A function that cuts IPv6 addresses to the network that one subscriber is given.

    Raises:
        ValueError: `ipv6_prefix` is not a whole number from 16 to 128.
    """
    if type(ipv6_prefix) is not int or not 16 <= ipv6_prefix <= 128:
        raise ValueError(f"ipv6_prefix must be a whole number from 16 to 128, got {ipv6_prefix!r}")
    whole, bits = divmod(ipv6_prefix, 8)
    mask = 0xFF00 >> bits & 0xFF
    end = _MARK + bytes((ipv6_prefix,))

    def group(packed: bytes) -> bytes:
        if len(packed) == 4:
            return packed
        kept = packed[:whole]
        if bits:
            kept += bytes((packed[whole] & mask,))
        return kept + end  # six bytes at least, so it is never an IPv4 address

    return group


def format_key(key: bytes) -> str | None:
    """What `grouping` has made `key` of, as people write it; None for other bytes."""
    if len(key) == 4:
        return str(ipaddress.IPv4Address(key))
    kept, prefix = key[:-4], int.from_bytes(key[-1:])
    if key[-4:-1] != _MARK or not 16 <= prefix <= 128 or len(kept) != (prefix + 7) // 8:
        return None
    return f"{ipaddress.IPv6Address(kept.ljust(16, bytes(1)))}/{prefix}"


class Networks:
    """A set of networks, such as the proxies that may say who the client is.

    It holds packed addresses, which know IPv4 clients only as IPv4. So a network that is written
    inside of `::ffff:0:0/96`, `64:ff9b::/96` or `2002::/16` is the IPv4 network that it stands
    for: "64:ff9b::a00:0/104" and "2002:a00::/24" are "10.0.0.0/8", such a prefix as a whole is
    all of IPv4, and any part of a 6to4 site is the site. Every other IPv6 network holds what is
    native in it and no more: neither "::/0" nor "2000::/3" trusts an IPv4 client, whichever way
    it came. To trust everybody, name "0.0.0.0/0" and "::/0".

    Args:
        cidrs: Networks or single addresses, such as "10.0.0.0/8" or "2001:db8::1". The word
            "unix" holds the peers that have no address, which are packed as no bytes.

    Raises:
        ValueError: One of `cidrs` is not a network.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        if isinstance(cidrs, str):
            raise ValueError(f"trusted must be a list of networks, got the single string {cidrs!r}")
        self._by_size: dict[int, list[tuple[int, int]]] = {}
        for cidr in cidrs:
            size, first, mask = _network(cidr)
            self._by_size.setdefault(size, []).append((first, mask))

    def __bool__(self) -> bool:
        return bool(self._by_size)

    def __contains__(self, packed: bytes) -> bool:
        number = int.from_bytes(packed)
        for first, mask in self._by_size.get(len(packed), ()):  # noqa: SIM110 - any() is slower
            if number & mask == first:
                return True
        return False


def _network(cidr: str) -> tuple[int, int, int]:
    """The length of a network's packed addresses, the first of them, and the mask."""
    if cidr == _NO_ADDRESS:
        return 0, 0, 0
    try:
        network = ipaddress.ip_network(str(cidr))  # else a number would be an address too
    except ValueError as error:
        raise ValueError(
            f"trusted network {cidr!r} is invalid: expected an address or a network "
            f"such as '10.0.0.0/8' or '2001:db8::/32', or 'unix' ({error})"
        ) from None
    packed, prefix = network.network_address.packed, network.prefixlen
    for wrapping in _WRAPPINGS if len(packed) == 16 else ():
        size = len(wrapping)
        if packed.startswith(wrapping) and prefix >= 8 * size:
            packed, prefix = packed[size : size + 4], min(prefix - 8 * size, 32)
    bits = 8 * len(packed)
    mask = (1 << bits) - (1 << bits - prefix)
    return len(packed), int.from_bytes(packed) & mask, mask
