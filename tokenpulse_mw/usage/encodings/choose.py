"""Which decoders undo the codings of an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from ..bounds import MAX_CODINGS
from .brotli import find_brotli
from .decoder import Make
from .deflate import Deflate, Gzip
from .zstd import find_zstd

# No coding at all; some servers write these for it, none of which is registered but the first.
_PLAIN = (b"identity", b"none", b"utf-8")


def decoders_for(encoding: bytes, load: Callable[[str], Any] = import_module) -> list[Make] | None:
    """What undoes this Content-Encoding, in the order of undoing it, or None where nothing can.

    Args:
        encoding: The header's value, in which the coding applied last is named last.
        load: Finds an installed package by its name, or raises ImportError.
    """
    names = [name for part in encoding.lower().split(b",") if (name := part.strip(b" \t"))]
    makes: list[Make] = []
    for name in reversed(names):
        if name in _PLAIN:
            continue
        make = _maker(name, load)
        if make is None or len(makes) == MAX_CODINGS:
            return None
        makes.append(make)
    return makes


@lru_cache(maxsize=64)
def _maker(name: bytes, load: Callable[[str], Any]) -> Make | None:
    if name in (b"gzip", b"x-gzip"):
        return Gzip
    if name == b"deflate":
        return Deflate
    if name == b"br":
        return find_brotli(load)
    return find_zstd(load) if name == b"zstd" else None
