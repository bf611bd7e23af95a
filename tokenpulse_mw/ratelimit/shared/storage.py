"""Shared storages: supported URLs, opening and closing."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, get_origin

from limits.aio.storage import MemcachedStorage, RedisStorage
from limits.storage import storage_from_string

from ...secret import Secret
from .redis import WriteRefusedError

SharedStorage = RedisStorage | MemcachedStorage

# Supported schemes and those of `limits`: Valkey has the protocol of Redis, so its driver is used.
_ASYNC_SCHEMES = {
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
# Vendors and other clients write them without `async+`, which `limits` would open as blocking.
_PLAIN_SCHEMES = {name.removeprefix("async+"): opened for name, opened in _ASYNC_SCHEMES.items()}
SCHEMES = _ASYNC_SCHEMES | _PLAIN_SCHEMES
_ONE_SERVER = ("async+redis", "async+rediss", "async+redis+unix")
# Beginnings of the errors of a Redis that rejects writes; the driver removes READONLY.
_WRITE_ERRORS = ("OOM ", "MISCONF ", "NOREPLICAS ", "You can't write against a read only")
_MAX_MEMCACHED_SECONDS = 30 * 86_400
_MAX_PIPELINED = 10_000  # requests on one connection to Memcached


def check_storage(url: Secret[str]) -> None:
    """Check that a storage can be opened, without connecting.

    Raises:
        ValueError: `url` is malformed, its scheme is unsupported, or the driver is not installed.
    """
    if not isinstance(url.reveal(), str):
        raise ValueError(
            "storage must be a URL such as 'redis://host:6379', got a value of type "
            f"{type(url.reveal()).__name__}"
        )
    scheme, _, location = str(url).partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"storage must have a supported scheme, got {url!r}: {_advice(scheme)}")
    driver, extra = ("memcachio", "memcached") if "memcached" in scheme else ("coredis", "redis")
    if find_spec(driver) is None:
        raise ValueError(
            f"storage must have an installed driver, got {url!r} without {driver}: "
            f"pip install 'tokenpulse-mw[{extra}]'"
        )
    try:
        if not location.rpartition("@")[2]:
            raise ValueError
        open_storage(url)
    except Exception:  # noqa: BLE001 - its text may contain the URL with a secret
        raise ValueError(
            f"storage must be '{scheme}://host:port' with options that the driver supports, "
            f"got {url!r}"
        ) from None


def check_window(url: Secret[str], window: int, strategy: str) -> None:
    """Check that a storage supports windows of this length.

    Raises:
        ValueError: `window` is too long for Memcached, which would read it as a date.
    """
    lives = 2 * window if strategy == "sliding-window-counter" else window
    if is_memcached(url) and lives > _MAX_MEMCACHED_SECONDS:
        raise ValueError(
            "limit must have counters that live at most 30 days on Memcached, got a "
            f"{strategy} of {window} s that needs {lives} s: use Redis or a shorter window"
        )


def is_memcached(url: Secret[str]) -> bool:
    """Return True if `url` is that of a Memcached."""
    return "memcached" in str(url).partition("://")[0]


def is_cluster(url: Secret[str]) -> bool:
    """Return True if `url` is that of a cluster."""
    return "+cluster" in str(url).partition("://")[0]


def open_storage(url: Secret[str]) -> SharedStorage:
    """Return the storage at `url`; it connects on its first use."""
    scheme = str(url).partition("://")[0]
    opened_as = SCHEMES[scheme]
    options: dict[str, Any] = {}
    if opened_as == "async+memcached":
        options["max_inflight_requests_per_connection"] = _MAX_PIPELINED
        # A slow connection would be removed from the pool for each request, and the pool closes
        # only the connections in it.
        options["max_average_response_time_for_connection_reuse"] = math.inf
        options["connect_timeout"] = None  # the limiter has its own timeout, which may be longer
    elif opened_as in _ONE_SERVER:
        from coredis.retry import NoRetryPolicy

        # Never resend a command that may have been executed: it would count twice.
        options = {"retry_policy": NoRetryPolicy(), "decode_components": True}
    storage = storage_from_string(url.reveal().replace(scheme, opened_as, 1), **options)
    assert isinstance(storage, SharedStorage)
    if isinstance(storage, RedisStorage):
        _adapt_connections(storage)
    return storage


def _adapt_connections(storage: RedisStorage) -> None:
    """Prevent the driver of Redis from writing to lost connections, and from closing others.

    The driver closes a connection on each error reply, and all requests on it fail. So the errors
    of `EVALSHA`, which fails once on each new server, are returned as values. In a cluster, which
    redirects commands by errors, `EVALSHA` is not used.

    The driver writes to a lost connection until it is notified of the loss. On CPython 3.12, and
    3.13 before 3.13.8, the event loop then waits to write to a file descriptor that it closes. The
    next connection with this descriptor, which may be a client's, hangs or fails:
    python/cpython#136234.
    """
    from coredis.commands.constants import CommandName
    from coredis.exceptions import ConnectionError as LostError

    bridge: Any = storage.bridge
    for pool in {bridge.get_connection(readonly).connection_pool for readonly in (False, True)}:
        kind = get_origin(pool.connection_class) or pool.connection_class

        def send(self: Any, *args: Any, kind: Any = kind, **kwargs: Any) -> Awaitable[None]:
            if self._transport.is_closing():
                raise LostError("connection lost")
            sent: Awaitable[None] = kind._send_packed_command(self, *args, **kwargs)
            return sent

        def create(
            self: Any, command: bytes, *args: Any, kind: Any = kind, **more: Any
        ) -> Awaitable[Any]:
            if command is CommandName.EVALSHA:  # comparing by value is slow
                more["raise_exceptions"] = False
            request: Awaitable[Any] = kind.create_request(self, command, *args, **more)
            return request

        methods = {"_send_packed_command": send, "create_request": create}
        pool.connection_class = type(kind.__name__, (kind,), methods)


async def close_storage(storage: SharedStorage) -> None:
    """Close all connections of `storage`, also with requests in progress."""
    bridge: Any = storage.bridge
    if isinstance(storage, MemcachedStorage):
        clients = [await bridge.get_storage()]
    else:
        clients = [bridge.get_connection(readonly) for readonly in (False, True)]
        clients += getattr(getattr(bridge, "sentinel", None), "sentinels", ())
    for client in clients:
        pool = client.connection_pool
        with suppress(Exception):  # the connection is not used again
            (pool.close if isinstance(storage, MemcachedStorage) else pool.disconnect)()


def rejects_writes(error: Exception) -> bool:
    """Return True if Redis responds but does not count: it is full or read-only."""
    return isinstance(error, WriteRefusedError) or str(error).startswith(_WRITE_ERRORS)


def _advice(scheme: str) -> str:
    """Return advice for an unsupported scheme."""
    if scheme in ("memory", "async+memory"):
        return "to count within one process, use Limiter"
    return f"use one of {', '.join(_PLAIN_SCHEMES)}"
