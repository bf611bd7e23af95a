"""Who the client is: the address of the peer, or what trusted proxies say of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from ipaddress import ip_address

from starlette.types import Scope

from ...exchange import truncate_with_hash
from ..callables import KeyFunction, cached, factory
from ..misuse import WarnOnce
from .address import Networks, network_grouper, pack
from .forwarded import client_behind, parser_for
from .header import header_name, header_values

_FORWARDED_FOR = "x-forwarded-for"


_TELLING = {_FORWARDED_FOR: "X-Forwarded-For", "forwarded": "Forwarded"}  # each as people write it


@factory
def client_address(
    *, trusted: Iterable[str] = (), header: str = _FORWARDED_FOR, ipv6_prefix: int = 64
) -> KeyFunction:
    """Key by the client's network address, as packed bytes.

    Without `trusted` that is the peer of the connection, and no header is believed. Behind
    proxies, name their networks: then `header` is followed from right to left, past every
    trusted address, to the first that is not; what the client itself wrote there is never
    reached. Where a proxy says nothing of use (`unknown`, a hidden name, garbage), the proxy is
    the client. Peers without an address (a unix socket) share one key.

    Args:
        trusted: Networks of your own proxies, such as "10.0.0.0/8": whoever connects from there
            may say who the client is. The word "unix" is for a proxy on a unix socket: a peer
            without an address is then our proxy, so let the server listen on nothing else.
        header: "x-forwarded-for", "forwarded" (RFC 7239), or any other header that your proxies
            set to the client's address whatever the client sent, such as "x-real-ip" or
            "cf-connecting-ip".
        ipv6_prefix: IPv6 clients are counted by the network of this many bits, since a
            subscriber is given a whole one.

    Raises:
        ValueError: A network, the header or the prefix is malformed, or a header is named and
            nobody trusted with it.
    """
    proxies, group, name = Networks(trusted), network_grouper(ipv6_prefix), header_name(header)
    if not proxies and name != _FORWARDED_FOR:
        raise ValueError(
            f"header {header!r} is only read from trusted proxies: name them, as in "
            f"client_address(trusted=['10.0.0.0/8'], header={header!r})"
        )
    read = parser_for(name)
    keys: dict[str, bytes | str] = {}  # of peers that are clients
    ours: dict[str, bytes] = {}  # peers that are proxies, packed
    warn = WarnOnce()

    def from_peer(scope: Scope) -> Hashable:
        client = scope.get("client")
        host = client[0] if client else ""
        key = keys.get(host)
        return learned(scope, host) if key is None else key

    def from_proxy(scope: Scope) -> Hashable:
        client = scope.get("client")
        proxy = ours.get(client[0] if client else "")
        return from_peer(scope) if proxy is None else told_by(proxy, scope)

    def told_by(proxy: bytes, scope: Scope) -> bytes | str:
        found = client_behind(proxy, read(header_values(scope, name)), proxies)
        return group(found) if found else ""

    def learned(scope: Scope, host: object) -> bytes | str:
        if not isinstance(host, str):  # no server says so, but then nobody else is to be let off
            host = ""
        packed = pack(host) if host else b""
        if packed is not None and packed in proxies:
            return told_by(cached(ours, host, packed), scope)
        if not proxies and not warn.told:
            _look_for_proxies(scope, host, warn)
        return cached(keys, host, group(packed) if packed else truncate_with_hash(host))

    return from_proxy if proxies else from_peer


def _look_for_proxies(scope: Scope, host: str, warn: WarnOnce) -> None:
    """Warn if a proxy that nobody trusts seems to speak for its clients."""
    peer = pack(host) or b""
    for name, written in _TELLING.items():
        lines = header_values(scope, name)
        if not lines:
            continue
        if peer in parser_for(name)(lines):  # the server has put the client in the proxy's place
            return
        warn(
            "%s came from %s, but no proxy is trusted: all clients behind that proxy share one "
            "limit. If it is yours, name its network: client_address(trusted=[%s]%s), or "
            "TOKENPULSE_TRUSTED_PROXIES",
            written,
            ip_address(peer)
            if peer
            else ascii(truncate_with_hash(host))
            if host
            else "a unix socket",
            "..." if host else "'unix'",
            "" if name == _FORWARDED_FOR else f", header={name!r}",
        )
