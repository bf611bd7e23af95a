"""Requests that wait at the same time, sent to a Redis together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .client import Call, StorageClient
from .redis import Operation, Reply, TransactionsOnRedis, WriteRefusedError, has_counted

MAX_TRANSACTIONS = 128  # per script, which blocks the server while it runs

Replies = Sequence[Sequence[Reply] | None]


class _Transaction:
    """Operations of one request.

    Attributes:
        operations: Operations, all of which are allowed or none.
        replies: Future of the replies; None without the storage.
        deadline: Time of the event loop at which the request no longer waits.
    """

    __slots__ = ("deadline", "operations", "replies")

    def __init__(
        self,
        operations: Sequence[Operation],
        replies: asyncio.Future[Sequence[Reply] | None],
        deadline: float,
    ) -> None:
        self.operations = operations
        self.replies = replies
        self.deadline = deadline


class _Queue:
    """Transactions of one event loop.

    Attributes:
        waiting: Transactions that no call has sent.
        calls: Number of calls that are in progress.
    """

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.waiting: list[_Transaction] = []
        self.calls = 0


class Batches:
    """Transactions that are sent to a Redis together.

    A transaction is sent at once if no call is in progress. Those that arrive during a call are
    sent together when it ends, or when they are more than a script has. The result is that of
    sending them one after the other.

    Args:
        client: Client of the storage.
    """

    def __init__(self, client: StorageClient[TransactionsOnRedis]) -> None:
        self._client = client
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}

    async def run(self, *operations: Operation) -> Sequence[Reply] | None:
        """Run a transaction, and return the replies to its operations.

        The transaction is run even if the caller is cancelled meanwhile.

        Returns:
            None if the storage is unavailable or has refused to write; empty if the transaction
            has several operations that cannot run in one script.
        """
        loop = self._client.admit()
        if loop is None:
            return None
        queue = self._queues.get(loop) or self._add_queue(loop)
        replies: asyncio.Future[Sequence[Reply] | None] = loop.create_future()
        deadline = loop.time() + self._client.timeout
        queue.waiting.append(_Transaction(operations, replies, deadline))
        scripts, rest = divmod(len(queue.waiting), MAX_TRANSACTIONS)
        if not queue.calls or (scripts and rest == 1):
            self._send(loop, queue)
        return await replies

    def _add_queue(self, loop: asyncio.AbstractEventLoop) -> _Queue:
        for closed in [loop for loop in list(self._queues) if loop.is_closed()]:
            self._queues.pop(closed, None)
        queue = self._queues[loop] = _Queue()
        return queue

    def _send(self, loop: asyncio.AbstractEventLoop, queue: _Queue) -> None:
        """Start a call for the transactions that wait when it is connected."""
        batch: list[_Transaction] = []

        async def operation(redis: TransactionsOnRedis) -> Replies:
            batch.extend(queue.waiting[:MAX_TRANSACTIONS])
            del queue.waiting[:MAX_TRANSACTIONS]
            replies = self._checked(await redis.run([item.operations for item in batch]))
            for item, reply in zip(batch, replies, strict=True):
                if not item.replies.done():  # else its caller was cancelled
                    item.replies.set_result(reply)
            return replies

        def ended(call: Call[Replies]) -> None:
            self._client.ended(call)
            queue.calls -= 1
            if call.cancelled() or call.result() is None:
                batch.extend(queue.waiting)  # they would use the same connection
                queue.waiting.clear()
                for item in batch:
                    if call.cancelled():
                        item.replies.cancel()
                    elif not item.replies.done():
                        item.replies.set_result(None)
            elif queue.waiting and not queue.calls:
                self._send(loop, queue)

        def wrote(replies: Replies) -> bool:
            return any(has_counted(item.operations, replies[n]) for n, item in enumerate(batch))

        queue.calls += 1
        deadline = queue.waiting[0].deadline
        self._client.begin(loop, operation, wrote, deadline=deadline, ended=ended)

    def _checked(self, replies: Sequence[Sequence[Reply]]) -> Replies:
        """Return the replies, with None for the transactions that the storage refused to write."""
        checked: list[Sequence[Reply] | None] = list(replies)
        for number, reply in enumerate(replies):
            if reply and reply[0][0] < 0:
                self._client.refused(WriteRefusedError(reply[0]))
                checked[number] = None
        return checked
