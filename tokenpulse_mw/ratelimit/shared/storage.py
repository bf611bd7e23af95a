"""The storages that processes share: which there are, and how each is opened and closed."""

from __future__ import annotations

import math
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, get_origin

from limits.aio.storage import MemcachedStorage, RedisStorage
from limits.storage import storage_from_string

from ...secret import Secret
from .redis import WriteRefusedError

SharedStorage = RedisStorage | MemcachedStorage

# Each scheme, and the one that `limits` opens it by: Valkey speaks the protocol of Redis, so one
# driver does for both.
SCHEMES = {
    "async+redis": "async+redis",
    "async+rediss": "async+rediss",
    "async+redis+unix": "async+redis+unix",
    "async+redis+cluster": "async+redis+cluster",
    "async+redis+sentinel": "async+redis+sentinel",
    "async+valkey": "async+redis",
    "async+valkeys": "async+rediss",
    "async+valkey+unix": "async+redis+unix",
    "async+valkey+cluster": "async+redis+cluster",
    "async+valkey+sentinel": "async+redis+sentinel",
    "async+memcached": "async+memcached",
}
_ONE_SERVER = ("async+redis", "async+rediss", "async+redis+unix")
# What the errors of such a Redis begin with; the driver takes READONLY off.
_REFUSES_WRITES = ("OOM ", "MISCONF ", "NOREPLICAS ", "You can't write against a read only")
_LONGEST_ON_MEMCACHED = 30 * 86_400  # seconds
_MAX_WAITING = 10_000  # requests on one connection; they are sent one behind the other


def check_storage(url: Secret[str]) -> None:
    """Raise an error if a storage cannot be opened; it is not connected to.

    Raises:
        ValueError: `url` is malformed, of no known scheme, or its driver is not installed.
    """
    if not isinstance(url.reveal(), str):
        raise ValueError(
            f"storage must be a URL such as 'async+redis://host:6379', got one of type "
            f"{type(url.reveal()).__name__}"
        )
    scheme, _, place = str(url).partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"storage {url!r} is not known: {_advice(scheme)}")
    driver, extra = ("memcachio", "memcached") if "memcached" in scheme else ("coredis", "redis")
    if find_spec(driver) is None:
        raise ValueError(
            f"storage {url!r} needs the package {driver}: pip install 'tokenpulse-mw[{extra}]'"
        )
    try:
        if not place.rpartition("@")[2]:
            raise ValueError
        open_storage(url)
    except Exception:  # noqa: BLE001 - its text may quote the URL, and a secret with it
        raise ValueError(
            f"storage {url!r} cannot be opened: expected '{scheme}://host:port', and as "
            "options only what its driver knows"
        ) from None


def check_window(url: Secret[str], window: int, strategy: str) -> None:
    """Raise an error if a storage would take a window for something else.

    Raises:
        ValueError: `window` is too long for Memcached, which takes it for a date then.
    """
    lives = 2 * window if strategy == "sliding-window-counter" else window
    if "memcached" in str(url).partition("://")[0] and lives > _LONGEST_ON_MEMCACHED:
        raise ValueError(
            f"Memcached keeps counters for 30 days at most, and a {strategy} of {window} seconds "
            f"must be kept for {lives}: use Redis, or a shorter window"
        )


def open_storage(url: Secret[str]) -> SharedStorage:
    """Return the storage at `url`; it connects when it is first used."""
    scheme = str(url).partition("://")[0]
    opened_as = SCHEMES[scheme]
    options: dict[str, Any] = {}
    if opened_as == "async+memcached":
        options["max_inflight_requests_per_connection"] = _MAX_WAITING
        # A connection that answered slowly would be taken out of the pool for each request, and
        # the pool closes only what is in it.
        options["max_average_response_time_for_connection_reuse"] = math.inf
        options["connect_timeout"] = None  # whoever asks has a timeout, which may be longer
    elif opened_as in _ONE_SERVER:
        from coredis.retry import NoRetryPolicy

        # A command that may have been carried out is not sent twice, for it would count twice.
        options = {"retry_policy": NoRetryPolicy(), "decode_components": True}
    storage = storage_from_string(url.reveal().replace(scheme, opened_as, 1), **options)
    assert isinstance(storage, SharedStorage)
    if isinstance(storage, RedisStorage):
        _check_before_writing(storage)
    return storage


def _check_before_writing(storage: RedisStorage) -> None:
    """Let the driver of Redis write only to connections that are not lost.

    The driver writes to lost ones too, until it is told. On CPython 3.12, and 3.13 before 3.13.8,
    the event loop then waits to write to a file descriptor that it closes. The next connection with
    this number, which may be a client's, hangs or fails: python/cpython#136234.
    """
    from coredis.exceptions import ConnectionError as LostError

    bridge: Any = storage.bridge
    for pool in {bridge.get_connection(readonly).connection_pool for readonly in (False, True)}:
        kind = get_origin(pool.connection_class) or pool.connection_class

        async def send(self: Any, *args: Any, kind: Any = kind, **kwargs: Any) -> None:
            if self._transport.is_closing():
                raise LostError("connection lost")
            await kind._send_packed_command(self, *args, **kwargs)

        pool.connection_class = type(kind.__name__, (kind,), {"_send_packed_command": send})


async def close_storage(storage: SharedStorage) -> None:
    """Close all connections of `storage`, whatever is still waiting on them."""
    bridge: Any = storage.bridge
    if isinstance(storage, MemcachedStorage):
        clients = [await bridge.get_storage()]
    else:
        clients = [bridge.get_connection(readonly) for readonly in (False, True)]
        clients += getattr(getattr(bridge, "sentinel", None), "sentinels", ())
    for client in clients:
        pool = client.connection_pool
        with suppress(Exception):  # it is given up in any case
            (pool.close if isinstance(storage, MemcachedStorage) else pool.disconnect)()


def refuses_writes(error: Exception) -> bool:
    """Return True if a Redis answers, but counts nothing: it is full, or read-only."""
    return isinstance(error, WriteRefusedError) or str(error).startswith(_REFUSES_WRITES)


def _advice(scheme: str) -> str:
    """What to write in place of an unknown scheme."""
    if scheme in ("memory", "async+memory"):
        return "to count within one process, use Limiter"
    if f"async+{scheme}" in SCHEMES:
        return f"use 'async+{scheme}://', which does not block the event loop"
    return f"expected a URL that begins with one of {list(SCHEMES)} and '://'"
