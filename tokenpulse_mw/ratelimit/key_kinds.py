"""Kinds of keys: how operators read them, and which of them are secret."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

from .encoding import encode_key

# Returns the readable name of a tenant, or None if it is not known.
NameOf = Callable[[str], str | None]

T = TypeVar("T")

_SHOWN_DIGITS = 4  # of the hash of a secret key


@dataclass(frozen=True, slots=True)
class KeyKind:
    """Kind of the keys of one key function.

    Attributes:
        text: Words for the kind, such as "client address".
        label: Function of a key, and of the names of tenants, that returns the key in readable
            form, or a hash if it is secret.
        parse: Function of text that returns the key which an operator means, or None if keys of
            this kind cannot be read.
    """

    text: str
    label: Callable[[Any, NameOf], str]
    parse: Callable[[str], Hashable | None]


def with_kind(function: T, kind: KeyKind) -> T:
    """Note the kind of the keys of `function`, and return it."""
    function.key_kind = kind  # type: ignore[attr-defined]
    return function


def kind_of(function: object) -> KeyKind:
    """Return the kind of the keys of a key function; those of an unknown one are secret."""
    kind = getattr(function, "key_kind", None)
    return kind if isinstance(kind, KeyKind) else secret_kind(name_of_function(function))


def name_of_function(function: object) -> str:
    """Return the name of a function, or "function" if it has none."""
    name = getattr(function, "__name__", type(function).__name__)
    return "function" if name == "<lambda>" else name


def text_kind(text: str) -> KeyKind:
    """Return a kind of keys that are text, or that are written as their text."""
    return KeyKind(text, lambda key, name_of: str(key), lambda text: text)  # noqa: ARG005


def tenant_kind(text: str) -> KeyKind:
    """Return the kind of the ids of tenants, which may have a readable name."""

    def label(key: Any, name_of: NameOf) -> str:
        name = name_of(str(key))
        return str(key) if name is None or name == str(key) else f"{name} ({key})"

    return KeyKind(text, label, lambda text: text)


def secret_kind(text: str) -> KeyKind:
    """Return a kind of keys that may be secret, or that are hashes of a secret."""
    return KeyKind(text, partial(_hidden, text), lambda text: None)  # noqa: ARG005


def combined_kind(*kinds: KeyKind) -> KeyKind:
    """Return the kind of tuples whose parts are of these kinds."""

    def label(key: Any, name_of: NameOf) -> str:
        parts = zip(kinds, key, strict=True)
        return ", ".join(kind.label(part, name_of) for kind, part in parts if part is not None)

    text = ", ".join(kind.text for kind in kinds)
    return KeyKind(text, label, lambda text: None)  # noqa: ARG005


def _hidden(text: str, key: Hashable, name_of: NameOf) -> str:  # noqa: ARG001
    """Return the kind of a secret key and the last digits of its hash."""
    return f"{text} \N{HORIZONTAL ELLIPSIS}{hash_of(key).hex()[-_SHOWN_DIGITS:]}"


def hash_of(key: Hashable, secret: bytes = b"", *, of: str = "") -> bytes:
    """Return a hash of any key; of keys that other processes can have, they have the same."""
    try:
        data = encode_key(key)
    except ValueError:
        data = repr(key).encode("utf-8", "surrogatepass")
    return blake2b(b"%d:%b%b" % (len(of), of.encode(), data), digest_size=16, key=secret).digest()
