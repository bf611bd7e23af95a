"""IP addresses as packed bytes: every notation of an address results in the same key."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton

from ...validation import check_integer

# Prefixes of IPv6 addresses that are followed by an IPv4 address.
_IPV4_PREFIXES = (
    bytes(10) + b"\xff\xff",  # ::ffff:0:0/96, mapped (RFC 4291), as dual-stack sockets report it
    b"\x00\x64\xff\x9b" + bytes(8),  # 64:ff9b::/96, NAT64 (RFC 6052)
    b"\x20\x02",  # 2002::/16, 6to4 (RFC 3056); the rest of the address is the subscriber's
)
_NETWORK_MARK = b"::/"  # between the first bytes of a network and the length of its prefix
_NO_ADDRESS = "unix"  # network of the peers without an address, which are packed as no bytes


def pack(text: str) -> bytes | None:
    """Return the 4 or 16 bytes of an address, or None if `text` is not an address.

    An IPv4 address that is mapped into IPv6, or came by NAT64 or 6to4, results in 4 bytes. A zone
    (`%eth0`) is dropped.
    """
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        return None
    if packed.startswith(_IPV4_PREFIXES):
        return packed[2:6] if packed[0] else packed[12:]
    return packed


def pack_with_port(text: str) -> bytes | None:
    """Return the packed address of a form with a port or brackets, as proxies write it.

    The forms are `1.2.3.4:80`, `[2001:db8::1]:80` and `[::1]`.
    """
    text = text.strip()
    if text.startswith("["):
        return pack(text[1:].partition("]")[0])
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return pack(text)


def network_grouper(ipv6_prefix: int) -> Callable[[bytes], bytes]:
    """Return a function that truncates IPv6 addresses to the network of one subscriber.

    Raises:
        ValueError: `ipv6_prefix` is not an integer from 16 to 128.
    """
    whole, bits = divmod(check_integer("ipv6_prefix", ipv6_prefix, minimum=16, maximum=128), 8)
    mask = 0xFF00 >> bits & 0xFF
    end = _NETWORK_MARK + bytes((ipv6_prefix,))

    def group(packed: bytes) -> bytes:
        if len(packed) == 4:
            return packed
        network = packed[:whole]
        if bits:
            network += bytes((packed[whole] & mask,))
        return network + end  # at least six bytes, so it never equals an IPv4 address

    return group


def format_key(key: bytes) -> str | None:
    """Return the address or network of a key of `network_grouper`; None for other bytes."""
    if len(key) == 4:
        return str(ipaddress.IPv4Address(key))
    network, prefix = key[:-4], int.from_bytes(key[-1:])
    is_network = key[-4:-1] == _NETWORK_MARK and 16 <= prefix <= 128
    if not is_network or len(network) != (prefix + 7) // 8:
        return None
    return f"{ipaddress.IPv6Address(network.ljust(16, bytes(1)))}/{prefix}"


class Networks:
    """A set of networks, such as those of trusted proxies.

    Membership is tested with packed addresses, in which IPv4 clients are always IPv4. So a network
    inside `::ffff:0:0/96`, `64:ff9b::/96` or `2002::/16` means the embedded IPv4 network:
    "64:ff9b::a00:0/104" and "2002:a00::/24" are "10.0.0.0/8", such a prefix as a whole is all of
    IPv4, and a part of a 6to4 site is the site. All other IPv6 networks contain only native IPv6
    addresses: neither "::/0" nor "2000::/3" contains an IPv4 client. To trust all peers, use
    "0.0.0.0/0" and "::/0".

    Args:
        cidrs: Networks or single addresses, such as "10.0.0.0/8" or "2001:db8::1". "unix" stands
            for peers without an address, which are packed as no bytes.

    Raises:
        ValueError: One of `cidrs` is not a network.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        if isinstance(cidrs, str):
            raise ValueError(
                f"trusted must be a list of networks, such as ['10.0.0.0/8'], got {cidrs!r}"
            )
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
    """Return the length of a network's packed addresses, its first address and its mask."""
    if cidr == _NO_ADDRESS:
        return 0, 0, 0
    try:
        network = ipaddress.ip_network(str(cidr))  # as text: an integer would be an address
    except ValueError as error:
        raise ValueError(
            "trusted must be addresses or networks such as '10.0.0.0/8' or '2001:db8::/32', "
            f"or 'unix', separated by commas in a variable, got {cidr!r} ({error})"
        ) from None
    packed, prefix = network.network_address.packed, network.prefixlen
    for ipv4_prefix in _IPV4_PREFIXES if len(packed) == 16 else ():
        size = len(ipv4_prefix)
        if packed.startswith(ipv4_prefix) and prefix >= 8 * size:
            packed, prefix = packed[size : size + 4], min(prefix - 8 * size, 32)
    bits = 8 * len(packed)
    mask = (1 << bits) - (1 << bits - prefix)
    return len(packed), int.from_bytes(packed) & mask, mask
