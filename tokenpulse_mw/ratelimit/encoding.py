"""Encoding of keys that is equal in all processes."""

from __future__ import annotations


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
