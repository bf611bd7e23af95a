"""Keys that combine several keys."""

from __future__ import annotations

from collections.abc import Hashable

from starlette.types import Scope

from ..callables import KeyFunction, check_function, factory, reading_model, reads_model
from ..key_kinds import combined_kind, kind_of, with_kind


@factory
def combine(*keys: KeyFunction) -> KeyFunction:
    """Return a key function for the tuple of several keys, such as address and route.

    A request is limited unless all parts are None: omitting a header does not avoid the limit.

    Raises:
        ValueError: Fewer than two `keys` are given, or a key is not a function or is async.
    """
    if len(keys) < 2:
        raise ValueError(f"combine() needs at least two keys, got {len(keys)}")
    for key in keys:
        check_function("key", key)

    def combined(scope: Scope) -> Hashable | None:
        parts = tuple([key(scope) for key in keys])
        return None if parts.count(None) == len(parts) else parts

    with_kind(combined, combined_kind(*map(kind_of, keys)))
    return reading_model(combined) if reads_model(*keys) else combined
