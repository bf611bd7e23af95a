"""Client keys as short texts that are the same in every process, for storages to count under."""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import blake2b


def stable_text(key: Hashable) -> str:
    """32 hexadecimal digits that only `key` has.

    What it is made of cannot be read from it.

    Raises:
        ValueError: `key` is, or contains, something that other processes would not write alike.
    """
    return blake2b(_encoded(key), digest_size=16).hexdigest()


def _encoded(key: object) -> bytes:
    """`key` with the kind and the length of every part before it, so that no two are alike."""
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
        return b"t%d:%b" % (len(key), b"".join(map(_encoded, key)))
    raise ValueError(
        f"a key that processes share must be bytes, str, int, None or a tuple of these, "
        f"got one of type {type(key).__name__}"
    )
