"""Handles of keys: opaque names in URLs, from which a key cannot be found without the secret."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from secrets import token_bytes

from ..key_kinds import hash_of
from ..policy import Policy

_PREFIX = "k_"
_MAX_KEYS = 10_000


class KeyHandles:
    """Handles of the keys of policies.

    A handle is a keyed hash. Processes with the same secret give a key the same handle.

    Args:
        secret: Secret of the hash; a random one of this process when None.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = token_bytes(32) if secret is None else secret
        self._keys: OrderedDict[str, Hashable] = OrderedDict()

    def of(self, policy: Policy, key: Hashable) -> str:
        """Return the handle of a key."""
        return _PREFIX + hash_of(key, self._secret, of=policy.name).hex()

    def store(self, policy: Policy, key: Hashable) -> str:
        """Return the handle of a key, and store the key to find it again."""
        handle = self.of(policy, key)
        self._keys[handle] = key
        self._keys.move_to_end(handle)
        if len(self._keys) > _MAX_KEYS:
            self._keys.popitem(last=False)
        return handle

    def find(self, policy: Policy, handle: str) -> tuple[Hashable] | None:
        """Return the key of a policy that was stored with a handle; None if it was not."""
        if handle not in self._keys:
            return None
        key = self._keys[handle]
        return (key,) if self.of(policy, key) == handle else None
