"""The storages that processes share: which there are, and how each is opened and closed."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, unquote

from limits.aio.storage import MemcachedStorage, RedisStorage
from limits.storage import storage_from_string

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
_MOST_WAITING = 10_000  # requests on one connection; they are sent one behind the other


def check_storage(url: str) -> None:
    """Refuse a storage that cannot be opened; nothing is connected to yet.

    Raises:
        ValueError: `url` is malformed, of no known scheme, or its driver is not installed.
    """
    if not isinstance(url, str):
        raise ValueError(
            f"storage must be a URL such as 'async+redis://host:6379', got one of type "
            f"{type(url).__name__}"
        )
    scheme, _, place = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"storage {masked(url)!r} is not known: {_advice(scheme)}")
    driver, extra = ("memcachio", "memcached") if "memcached" in scheme else ("coredis", "redis")
    if find_spec(driver) is None:
        raise ValueError(
            f"storage {masked(url)!r} needs the package {driver}: "
            f"pip install 'tokenpulse-mw[{extra}]'"
        )
    try:
        if not place.rpartition("@")[2]:
            raise ValueError
        open_storage(url)
    except Exception:  # noqa: BLE001 - its text may quote the URL, and a secret with it
        raise ValueError(
            f"storage {masked(url)!r} cannot be opened: expected '{scheme}://host:port', and as "
            "options only what its driver knows"
        ) from None


def check_window(url: str, window: int, strategy: str) -> None:
    """Refuse windows that a storage would take for something else.

    Raises:
        ValueError: `window` is too long for Memcached, which takes it for a date then.
    """
    lives = 2 * window if strategy == "sliding-window-counter" else window
    if "memcached" in url.partition("://")[0] and lives > _LONGEST_ON_MEMCACHED:
        raise ValueError(
            f"Memcached keeps counters for 30 days at most, and a {strategy} of {window} seconds "
            f"has to be kept for {lives}: use Redis, or a shorter window"
        )


def open_storage(url: str) -> SharedStorage:
    """The storage at `url`; it connects when it is first asked."""
    scheme, _, place = url.partition("://")
    opened_as = SCHEMES[scheme]
    options: dict[str, Any] = {}
    if opened_as == "async+memcached":
        options["max_inflight_requests_per_connection"] = _MOST_WAITING
        options["connect_timeout"] = None  # whoever asks has a timeout, which may be longer
    elif opened_as in _ONE_SERVER:
        from coredis.retry import NoRetryPolicy

        # A command that may have been carried out is not sent twice, for it would count twice.
        options = {"retry_policy": NoRetryPolicy(), "decode_components": True}
    storage = storage_from_string(f"{opened_as}://{place}", **options)
    assert isinstance(storage, SharedStorage)
    return storage


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
    return str(error).startswith(_REFUSES_WRITES)


def masked(url: str) -> str:
    """`url` with nothing in it that is secret, for logs and errors."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "***" if "@" in url else url
    login, at, place = rest.rpartition("@")
    if "?" in login:  # perhaps not a login at all, but options with a secret among them
        return f"{scheme}://***"
    return f"{scheme}://{'***' if at else ''}{at}{place.partition('?')[0]}"


def without_secrets(text: str, url: str) -> str:
    """`text`, such as a driver's error, with nothing in it that is secret in `url`."""
    rest = url.partition("://")[2]
    login, _, place = rest.rpartition("@")
    secrets = [login, *login.split(":", 1)]
    secrets += [value for name, value in parse_qsl(place.partition("?")[2]) if "pass" in name]
    for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _advice(scheme: str) -> str:
    """What to write in place of an unknown scheme."""
    if scheme in ("memory", "async+memory"):
        return "to count in the memory of one process, use Limiter"
    if f"async+{scheme}" in SCHEMES:
        return f"use 'async+{scheme}://', which does not block the event loop"
    return f"expected a URL that begins with one of {list(SCHEMES)} and '://'"
