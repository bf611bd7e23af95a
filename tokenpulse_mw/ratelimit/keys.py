"""Who is asking: functions from a request to the key that its limit is counted under."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from hashlib import blake2b

from starlette.types import Scope

from .address import Networks, grouping, pack, pack_with_port

KeyFunction = Callable[[Scope], Hashable | None]

_FORWARDED_FOR = b"x-forwarded-for"
_MOST_HOPS = 16  # proxies in a row that are followed
_CACHED_PEERS = 4096


def client_address(*, trusted: Iterable[str] = (), ipv6_prefix: int = 64) -> KeyFunction:
    """Key by the client's network address, as packed bytes.

    Without `trusted` that is the peer of the connection, and no header is read. Behind proxies,
    name their networks: then `X-Forwarded-For` is followed from right to left, past every
    trusted address, to the first that is not; what the client itself wrote there is never
    reached. Peers without an address (a unix socket) share one key.

    Args:
        trusted: Networks of your own proxies, such as "10.0.0.0/8". Whoever connects from
            there may say who the client is.
        ipv6_prefix: IPv6 clients are counted by the network of this many bits, since a
            subscriber is given a whole one.

    Raises:
        ValueError: A network or the prefix is malformed.
    """
    proxies = Networks(trusted)
    group = grouping(ipv6_prefix)

    @lru_cache(maxsize=_CACHED_PEERS)
    def grouped(host: str) -> Hashable:
        packed = pack(host)
        return group(packed) if packed else host

    def from_peer(scope: Scope) -> Hashable:
        client = scope.get("client")
        return grouped(client[0] if client else "")

    def from_headers(scope: Scope) -> Hashable:
        client = scope.get("client")
        packed = pack(client[0]) if client else None
        if packed is None or packed not in proxies:
            return from_peer(scope)
        return group(_forwarded(scope, packed, proxies))

    return from_headers if proxies else from_peer


def _forwarded(scope: Scope, peer: bytes, proxies: Networks) -> bytes:
    """The address nearest to us that is not one of our proxies; the last one known if all are."""
    lines = [value for name, value in scope["headers"] if name == _FORWARDED_FOR]
    hops = b",".join(lines).decode("latin-1").rsplit(",", _MOST_HOPS)
    for hop in reversed(hops[-_MOST_HOPS:]):
        if not hop.strip():  # an empty element of a list means nothing (RFC 9110, 5.6.1)
            continue
        address = pack_with_port(hop)
        if address is None:  # garbage: whoever passed it on is as far as we can tell
            return peer
        peer = address
        if peer not in proxies:
            return peer
    return peer


def header(name: str) -> KeyFunction:
    """Key by a request header, such as an API key; requests without it are not limited.

    The value is kept as a hash, so that a secret does not stay in memory. Limit by address too
    where clients can choose the value freely: each new value is a new key.

    Raises:
        ValueError: `name` is empty.
    """
    if not name or not name.strip():
        raise ValueError(f"header name must not be empty, got {name!r}")
    wanted = name.strip().lower().encode("latin-1")

    def key(scope: Scope) -> Hashable | None:
        for found, value in scope["headers"]:
            if found == wanted:
                return blake2b(value, digest_size=16, key=wanted[:64]).digest()
        return None

    return key
