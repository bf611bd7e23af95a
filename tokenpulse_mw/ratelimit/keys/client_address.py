"""Keys by the client's address: that of the peer, or the one that trusted proxies report."""

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
_PROXY_HEADERS = {_FORWARDED_FOR: "X-Forwarded-For", "forwarded": "Forwarded"}  # for the log


@factory
def client_address(
    *, trusted: Iterable[str] = (), header: str = _FORWARDED_FOR, ipv6_prefix: int = 64
) -> KeyFunction:
    """Return a key function for the client's network address, as packed bytes.

    Without `trusted`, the client is the peer of the connection, and no header is read. With it,
    `header` is read from right to left, past all trusted addresses, to the first untrusted
    address: values of the client are further left and never reached. If a proxy reports no
    address (`unknown`, an obfuscated name, invalid text), that proxy is the client. Peers without
    an address (a unix socket) share one key.

    Args:
        trusted: Networks of your proxies, such as "10.0.0.0/8", whose headers are read. "unix"
            trusts peers without an address, as a proxy on a unix socket: then the server must not
            listen on anything else.
        header: "x-forwarded-for", "forwarded" (RFC 7239), or a header that your proxies always
            overwrite with the client's address, such as "x-real-ip" or "cf-connecting-ip".
        ipv6_prefix: Number of bits of the network by which IPv6 clients are counted, since a
            subscriber has a whole network.

    Raises:
        ValueError: A network, the header or the prefix is malformed, or a header is given without
            trusted networks.
    """
    proxies, group, name = Networks(trusted), network_grouper(ipv6_prefix), header_name(header)
    if not proxies and name != _FORWARDED_FOR:
        raise ValueError(
            f"header is read from trusted proxies only, got {header!r} without trusted networks: "
            f"name them, as in client_address(trusted=['10.0.0.0/8'], header={header!r})"
        )
    parse = parser_for(name)
    client_keys: dict[str, bytes | str] = {}  # by host of the peer
    packed_proxies: dict[str, bytes] = {}  # by host of the peer
    warn = WarnOnce()

    def from_peer(scope: Scope) -> Hashable:
        client = scope.get("client")
        host = client[0] if client else ""
        key = client_keys.get(host)
        return from_new_peer(scope, host) if key is None else key

    def from_peer_or_proxy(scope: Scope) -> Hashable:
        client = scope.get("client")
        proxy = packed_proxies.get(client[0] if client else "")
        return from_peer(scope) if proxy is None else from_headers(proxy, scope)

    def from_headers(proxy: bytes, scope: Scope) -> bytes | str:
        address = client_behind(proxy, parse(header_values(scope, name)), proxies)
        return group(address) if address else ""

    def from_new_peer(scope: Scope, host: object) -> bytes | str:
        if not isinstance(host, str):  # a malformed scope is limited too
            host = ""
        packed = pack(host) if host else b""
        if packed is not None and packed in proxies:
            return from_headers(cached(packed_proxies, host, packed), scope)
        if not proxies and not warn.logged:
            _warn_about_proxies(scope, host, warn)
        return cached(client_keys, host, group(packed) if packed else truncate_with_hash(host))

    return from_peer_or_proxy if proxies else from_peer


def _warn_about_proxies(scope: Scope, host: str, warn: WarnOnce) -> None:
    """Warn if a request seems to come from a proxy that is not trusted."""
    peer = pack(host) or b""
    for name, display_name in _PROXY_HEADERS.items():
        lines = header_values(scope, name)
        if not lines:
            continue
        if peer in parser_for(name)(lines):  # the server has replaced the peer by the client
            return
        warn(
            "%s came from %s, but no proxy is trusted: all clients behind that proxy share one "
            "limit. If it is yours, name its network: client_address(trusted=[%s]%s), or "
            "TOKENPULSE_TRUSTED_PROXIES",
            display_name,
            ip_address(peer)
            if peer
            else ascii(truncate_with_hash(host))
            if host
            else "a unix socket",
            "..." if host else "'unix'",
            "" if name == _FORWARDED_FOR else f", header={name!r}",
        )
