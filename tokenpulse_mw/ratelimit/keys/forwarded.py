"""What proxies say of where a request came from, read from the nearest to the farthest.

Everything is read from right to left, since each proxy adds to the right: what a client has
written itself stands left of what the first proxy says of it, and must not be able to change how
that is read. An address is given packed; None stands for a hop that says nothing of use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from .address import Networks, pack_with_port

Hops = Iterator[bytes | None]

_MAX_HOPS = 16  # proxies in a row that are followed
_MAX_HEADER_BYTES = 4096  # characters, from the right
_MOST_MARKS = 256  # separators and quoted strings
_CUT = "?"  # stands for an element of which only the end is known; it is no address


def parse_address_list(lines: Sequence[bytes]) -> Hops:
    """The hops in the lines of a header that lists addresses, such as `X-Forwarded-For`.

    A header that has just one address is such a list as well.
    """
    elements = _end_of(lines).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
    for element in reversed(elements):
        if element.strip():  # an empty one means nothing (RFC 9110, 5.6.1)
            yield pack_with_port(element)


def parse_forwarded(lines: Sequence[bytes]) -> Hops:
    """The hops in the lines of a `Forwarded` header (RFC 7239): the `for` of each element."""
    for element in islice(_split(_end_of(lines), ","), _MAX_HOPS):
        if element is None:
            yield None
        elif element.strip():
            yield _for(element)


def parser_for(header: str) -> Callable[[Sequence[bytes]], Hops]:
    """The function that reads the hops in the lines of `header`, named in lower case."""
    return parse_forwarded if header == "forwarded" else parse_address_list


def client_behind(peer: bytes, hops: Iterable[bytes | None], proxies: Networks) -> bytes:
    """The address nearest to us that is none of our `proxies`, seen from `peer`, which is one.

    Where a proxy says nothing of use, or all are ours, it is the last one that is known.
    """
    for hop in hops:
        if hop is None:
            break
        peer = hop
        if peer not in proxies:
            break
    return peer


def _end_of(lines: Sequence[bytes]) -> str:
    """The right end of `lines`, joined as one list."""
    joined = b",".join(lines)
    text = joined[-_MAX_HEADER_BYTES:].decode("latin-1")
    return text if len(joined) <= _MAX_HEADER_BYTES else _CUT + "".join(text.partition(",")[1:])


def _split(text: str, separator: str) -> Iterator[str | None]:
    """The parts of `text` from right to left; a separator in quotes parts nothing.

    None stands for all the rest: from where a quoted string ends that does not begin, or if there
    is more than anybody needs.
    """
    end = at = len(text)
    for _ in range(_MOST_MARKS):
        start = text.rfind(separator, 0, at)
        quote = text.rfind('"', start + 1, at)
        if quote < 0:
            yield text[start + 1 : end]
            if start < 0:
                return
            end = at = start
        elif (at := _opening(text, quote)) < 0:
            break
    yield None


def _opening(text: str, closing: int) -> int:
    """Where the quoted string begins that ends at `closing`; -1 where it does not begin."""
    at = closing
    while (at := text.rfind('"', 0, at)) > 0:
        unescaped = at
        while unescaped and text[unescaped - 1] == "\\":
            unescaped -= 1
        if (at - unescaped) % 2 == 0:
            break
    return at


def _for(element: str) -> bytes | None:
    """The address that an element of `Forwarded` names; None unless it names just one."""
    found = []
    for pair in _split(element, ";"):
        if pair is None:
            return None
        name, _, value = pair.partition("=")
        value = value.strip()
        if '"' in value:
            if value[0] != '"' or value[-1] != '"':
                return None  # who leaves quotes about may have let its client write them
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if name.strip().lower() == "for":
            found.append(value)
    return pack_with_port(found[0]) if len(found) == 1 else None
