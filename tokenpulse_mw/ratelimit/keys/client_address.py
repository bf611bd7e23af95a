"""Keys by the client's address: that of the peer, or the one that trusted proxies report."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from ipaddress import ip_address

from starlette.types import Scope

from ...exchange import truncate_with_hash
from ..callables import KeyFunction, cached, factory
from ..key_kinds import KeyKind, NameOf, secret_kind, with_kind
from ..misuse import logger
from .address import Networks, format_key, network_grouper, pack
from .forwarded import client_behind, parser_for
from .header import header_name, header_values

_FORWARDED_FOR = "x-forwarded-for"
_PROXY_HEADERS = {_FORWARDED_FOR: "X-Forwarded-For", "forwarded": "Forwarded"}  # for the log
_KIND = "client address"
_MAX_INSPECTED = 1000  # requests; a proxy is visible in the first ones
# Peers that are rarely clients: loopback, private and shared networks, and unix sockets.
_INTERNAL = Networks(
    (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("100.64.0.0/10", "::1", "fc00::/7", "fe80::/10", "unix"),
    )
)


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
    has_proxies = bool(proxies)
    detector = _UntrustedProxyDetector(name if proxies else None)

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
        if has_proxies and packed is not None and packed in proxies:
            return from_headers(cached(packed_proxies, host, packed), scope)
        key = group(packed) if packed else truncate_with_hash(host)
        # A cached peer is not inspected, and its first request may be a probe without the header.
        if detector.left and detector.inspect(scope, host, packed):
            return key
        return cached(client_keys, host, key)

    kind = KeyKind(_KIND, _address_text, partial(_parse, group))
    return with_kind(from_peer_or_proxy if proxies else from_peer, kind)


def _address_text(key: Hashable, name_of: NameOf) -> str:
    """Return an address or a network as text.

    Any other key is hidden, because `TokenPulse.check` may have been given a secret one.
    """
    if key == "":
        return "no address"
    text = format_key(key) if isinstance(key, bytes) else None
    return secret_kind(_KIND).label(key, name_of) if text is None else text


def _parse(group: Callable[[bytes], bytes], text: str) -> bytes | str:
    """Return the key of a client whose address, network or host is `text`."""
    packed = pack(text.partition("/")[0])
    return text if packed is None else group(packed)


class _UntrustedProxyDetector:
    """Detector of proxies that are not trusted, active for the first requests.

    Args:
        header: The header that trusted proxies write; None if no proxy is trusted.

    Attributes:
        left: Number of requests still to inspect.
    """

    def __init__(self, header: str | None) -> None:
        self.left = _MAX_INSPECTED
        self._header = header

    def inspect(self, scope: Scope, host: str, packed: bytes | None) -> bool:
        """Warn if a request seems to come from a proxy; return False if the peer cannot be one.

        Args:
            scope: The request.
            host: The peer.
            packed: Its address, if it has one.
        """
        self.left -= 1
        if self._header is not None and (packed is None or packed not in _INTERNAL):
            return False  # a client may send the header
        for name in _PROXY_HEADERS if self._header is None else (self._header,):
            lines = header_values(scope, name)
            if not lines:
                continue
            if (packed or b"") in parser_for(name)(lines):
                break  # the server has replaced the peer by the client
            self._warn(name, host, packed)
            break
        return True

    def _warn(self, name: str, host: str, packed: bytes | None) -> None:
        self.left = 0
        logger.warning(
            "%s came from %s, but %s: all clients behind that proxy share one limit (logged "
            "once). If it is yours, %s its network: client_address(trusted=[%s]%s), or "
            "TOKENPULSE_TRUSTED_PROXIES",
            _PROXY_HEADERS.get(name, name),
            ip_address(packed)
            if packed
            else ascii(truncate_with_hash(host))
            if host
            else "a unix socket",
            "no proxy is trusted" if self._header is None else "it is not in the trusted networks",
            "name" if self._header is None else "add",
            "..." if host else "'unix'",
            "" if name == _FORWARDED_FOR else f", header={name!r}",
        )
