"""Encoding of keys that is equal in all processes."""

from __future__ import annotations

from collections.abc import Hashable

_MAX_DEPTH = 50  # of nested tuples


def decode_key(data: bytes) -> Hashable:
    """Return the key that `encode_key` has encoded.

    Raises:
        ValueError: `data` is not the encoding of a key.
    """
    key, rest = _decode(data, 0)
    if rest:
        raise ValueError("encoded key must end after the key")
    return key


def _decode(data: bytes, depth: int) -> tuple[Hashable, bytes]:
    """Return the first key in `data`, and the rest."""
    kind, data = data[:1], data[1:]
    if kind == b"n":
        return None, data
    number, separator, rest = data.partition(b";" if kind == b"i" else b":")
    if not separator or kind not in (b"b", b"s", b"i", b"t") or depth > _MAX_DEPTH:
        raise ValueError(f"encoded key must begin with n, b, s, i or t, got {kind!r}")
    if kind == b"i":
        return int(number), rest
    size = int(number)
    if kind == b"t":
        parts = []
        for _ in range(size):
            part, rest = _decode(rest, depth + 1)
            parts.append(part)
        return tuple(parts), rest
    if not 0 <= size <= len(rest):
        raise ValueError(f"encoded key must have {size} bytes, got {len(rest)}")
    body, rest = rest[:size], rest[size:]
    return (body if kind == b"b" else body.decode("utf-8", "surrogatepass")), rest


def encode_key(key: object) -> bytes:
    """Return an unambiguous encoding of `key`, with type and length before each part.

    Raises:
        ValueError: `key` is, or contains, a value of a type that differs between processes.
    """
    if key is None:
        return b"n"
    if isinstance(key, bytes):
        return b"b%d:%b" % (len(key), key)
    if isinstance(key, str):
        text = str.encode(key, "utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if isinstance(key, int):
        return b"i%d;" % key
    if isinstance(key, tuple):
        return b"t%d:%b" % (len(key), b"".join(map(encode_key, key)))
    raise ValueError(
        "key of a shared limiter must be bytes, str, int, None or a tuple of these, "
        f"got a value of type {type(key).__name__}"
    )
