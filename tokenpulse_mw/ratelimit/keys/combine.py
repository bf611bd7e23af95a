"""Several keys in one."""

from __future__ import annotations

from collections.abc import Hashable

from starlette.types import Scope

from ..callables import KeyFunction, check_function, factory


@factory
def combine(*keys: KeyFunction) -> KeyFunction:
    """Key by several keys at once, such as address and route.

    A part that is None stays None, and the rest still counts: leaving out a header lifts no
    limit. Only a request of which every part is None is not limited.

    Raises:
        ValueError: There are fewer than two `keys`, or one is no function or is async.
    """
    if len(keys) < 2:
        raise ValueError(f"combine() needs at least two keys, got {len(keys)}")
    for key in keys:
        check_function("key", key)

    def joined(scope: Scope) -> Hashable | None:
        parts = tuple([key(scope) for key in keys])
        return None if parts.count(None) == len(parts) else parts

    return joined
