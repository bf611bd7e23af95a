"""Parsers of the headers in which proxies report the client: the nearest hop first.

Headers are parsed from right to left, because proxies append. Values of the client are left of
those of the first proxy, and must not change how the latter are parsed. Addresses are packed;
None stands for a hop without a usable address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from .address import Networks, pack_with_port

Hops = Iterator[bytes | None]

_MAX_HOPS = 16
_MAX_HEADER_BYTES = 4096  # from the right
_MAX_MARKS = 256  # separators and quoted strings
_TRUNCATED = "?"  # replaces an element whose beginning was cut off; not a valid address


def parse_address_list(lines: Sequence[bytes]) -> Hops:
    """Yield the hops of a header with one or more addresses, such as `X-Forwarded-For`."""
    elements = _end_of(lines).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    for element in reversed(elements):
        if element.strip():  # empty elements are ignored (RFC 9110, 5.6.1)
            yield pack_with_port(element)


def parse_forwarded(lines: Sequence[bytes]) -> Hops:
    """Yield the hops of a `Forwarded` header (RFC 7239): the `for` of each element."""
    for element in islice(_split(_end_of(lines), ","), _MAX_HOPS):
        if element is None:
            yield None
        elif element.strip():
            yield _parse_for(element)


def parser_for(header: str) -> Callable[[Sequence[bytes]], Hops]:
    """Return the parser for `header`, a name in lower case."""
    return parse_forwarded if header == "forwarded" else parse_address_list


def client_behind(peer: bytes, hops: Iterable[bytes | None], proxies: Networks) -> bytes:
    """Return the nearest address that is not a trusted proxy, or the last address known.

    Args:
        peer: Address of the peer, a trusted proxy.
        hops: Hops that the headers report, the nearest first.
        proxies: Networks of trusted proxies.
    """
    for hop in hops:
        if hop is None:
            break
        peer = hop
        if peer not in proxies:
            break
    return peer


def _end_of(lines: Sequence[bytes]) -> str:
    """Return the right end of `lines`, joined as one list."""
    joined = b",".join(lines)
    text = joined[-_MAX_HEADER_BYTES:].decode("latin-1")
    if len(joined) <= _MAX_HEADER_BYTES:
        return text
    return _TRUNCATED + "".join(text.partition(",")[1:])


def _split(text: str, separator: str) -> Iterator[str | None]:
    """Yield the parts of `text` from right to left; separators in quotes are ignored.

    None stands for the whole rest: left of a quoted string without a beginning, or after
    `_MAX_MARKS`.
    """
    end = at = len(text)
    for _ in range(_MAX_MARKS):
        start = text.rfind(separator, 0, at)
        quote = text.rfind('"', start + 1, at)
        if quote < 0:
            yield text[start + 1 : end]
            if start < 0:
                return
            end = at = start
        elif (at := _opening_quote(text, quote)) < 0:
            break
    yield None


def _opening_quote(text: str, closing: int) -> int:
    """Return the position of the quote that the one at `closing` ends; -1 if it is missing."""
    at = closing
    while (at := text.rfind('"', 0, at)) > 0:
        unescaped = at
        while unescaped and text[unescaped - 1] == "\\":
            unescaped -= 1
        if (at - unescaped) % 2 == 0:
            break
    return at


def _parse_for(element: str) -> bytes | None:
    """Return the address of an element of `Forwarded`; None unless it has exactly one."""
    addresses = []
    for pair in _split(element, ";"):
        if pair is None:
            return None
        name, _, value = pair.partition("=")
        value = value.strip()
        if '"' in value:
            if value[0] != '"' or value[-1] != '"':
                return None  # a stray quote may come from the client
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if name.strip().lower() == "for":
            addresses.append(value)
    return pack_with_port(addresses[0]) if len(addresses) == 1 else None
