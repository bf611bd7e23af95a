"""Calls to a shared storage, with a timeout and a circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, TypeVar

from ...secret import Secret, redact
from .circuit_breaker import CircuitBreaker
from .connections import Counters, StoragePool
from .redis import WriteRefusedError
from .storage import SharedStorage, rejects_writes

Response = TypeVar("Response")
Call = asyncio.Task[tuple[Response] | None]

FALLBACKS = {
    "local": "each process uses its own table",
    "allow": "every request is allowed",
    "deny": "every request is rejected",
}


class StorageClient(Generic[Counters]):
    """Client of one storage for one limit.

    Args:
        url: URL of the storage.
        create: Function that returns the counters of the limit in an open storage.
        on_error: Behaviour during an outage, for the log.
        timeout: Seconds that a call may take.
        clock: Monotonic seconds.

    Attributes:
        timeout: Seconds that a call may take.
    """

    def __init__(
        self,
        url: Secret[str],
        create: Callable[[SharedStorage], Counters],
        *,
        on_error: str,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self.timeout = timeout
        self._pool = StoragePool(url, create)
        self._breaker = CircuitBreaker(
            str(url), fallback=FALLBACKS[on_error], timeout=timeout, clock=clock
        )
        self._calls: set[asyncio.Task[object]] = set()

    async def call(
        self,
        operation: Callable[[Counters], Awaitable[Response]],
        wrote: Callable[[Response], bool] = lambda _: False,
        *,
        on_cancel: Callable[[], object] | None = None,
    ) -> tuple[Response] | None:
        """Return the result of `operation` in a tuple, or None if the storage is unavailable.

        Args:
            operation: Function that calls the storage.
            wrote: Returns True if the storage has counted something for this response.
            on_cancel: Function to call after the operation if the caller is cancelled meanwhile.
        """
        call = self.start(operation, wrote)
        if call is None:
            return None
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if on_cancel is not None:
                call.add_done_callback(lambda call: call.cancelled() or on_cancel())
            raise

    def start(
        self,
        operation: Callable[[Counters], Awaitable[Response]],
        wrote: Callable[[Response], bool] = lambda _: False,
    ) -> Call[Response] | None:
        """Start `operation` as in `call`; return None if the storage is unavailable."""
        loop = self.admit()
        if loop is None:
            return None
        return self.begin(loop, operation, wrote, deadline=loop.time() + self.timeout)

    def admit(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop for a request to the storage; None if it is unavailable.

        During an outage, one request per second is admitted, and has to `begin` its operation.
        """
        if not self._breaker.allows():
            return None
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            self._breaker.record_failure("the drivers support asyncio only, not trio")
            return None

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        operation: Callable[[Counters], Awaitable[Response]],
        wrote: Callable[[Response], bool],
        *,
        deadline: float,
        ended: Callable[[Call[Response]], object] | None = None,
    ) -> Call[Response]:
        """Start `operation` for requests that were admitted.

        Args:
            loop: Running event loop.
            operation: Function that calls the storage.
            wrote: Returns True if the storage has counted something for this response.
            deadline: Time of `loop` at which the operation fails.
            ended: Function to call when the operation has ended, and which calls `self.ended`.
        """
        # In a separate task: a cancelled driver could assign a response to the wrong request. In
        # an empty context, since the task may serve several requests, and outlive them.
        call = loop.create_task(self._query(operation, wrote, deadline), context=Context())
        self._calls.add(call)
        call.add_done_callback(ended or self.ended)
        return call

    def ended(self, call: asyncio.Task[Any]) -> None:
        """Forget a call that has ended."""
        self._calls.discard(call)

    def refused(self, error: WriteRefusedError) -> None:
        """Begin or continue an outage of a storage that responds but does not count."""
        self._breaker.record_failure(self._reason(error), rejects_writes=True)

    async def aclose(self) -> None:
        """Close the connections of the running event loop after the calls that are in progress.

        The next call opens new connections.
        """
        with suppress(RuntimeError):  # on trio, which has no connections
            loop = asyncio.get_running_loop()
            for _ in range(2):  # the end of a call starts that of the requests that wait for it
                calls = [call for call in self._calls if call.get_loop() is loop]
                if calls:
                    await asyncio.wait(calls)
            await self._pool.drop()

    async def _query(
        self,
        operation: Callable[[Counters], Awaitable[Response]],
        wrote: Callable[[Response], bool],
        deadline: float,
    ) -> tuple[Response] | None:
        is_trial, connection = self._breaker.down, None
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._pool.for_running_loop()
                response = await operation(await connection.connected())
        except Exception as error:  # noqa: BLE001 - an outage must not fail the request
            if rejects_writes(error):  # the connection itself is intact
                self._breaker.record_failure(self._reason(error), rejects_writes=True)
            # Only the first of several requests on a failed connection records the failure.
            elif connection is None or await self._pool.drop(connection):
                self._breaker.record_failure(self._reason(error))
            return None
        if is_trial:
            self._breaker.record_success(wrote=wrote(response))
        return (response,)

    def _reason(self, error: Exception) -> str:
        text = str(error) or f"no response within {self.timeout} s"
        return redact(f"{type(error).__name__}: {text}", self._url)[:300]
