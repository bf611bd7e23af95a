"""TCP proxy whose connections can stop to transfer data, be cut, or lose the answer of a commit."""

from __future__ import annotations

import asyncio
from typing import Self

_COMMIT = b"COMMIT;"  # as asyncpg sends it


class Proxy:
    """Async context manager that runs a proxy of a local server.

    Args:
        port: Port of the server.

    Attributes:
        port: Port of the proxy.
        lost_answers: Number of commits whose answer did not arrive.
    """

    def __init__(self, port: int) -> None:
        self.port = self.lost_answers = 0
        self._server_port = port
        self._loses_answer = False
        self._open: list[_Connection] = []
        self._pipes: set[asyncio.Task[None]] = set()

    def lose(self) -> None:
        """Stop the transfer of all present connections without closing them."""
        for connection in self._open:
            connection.transfers.clear()

    def cut(self) -> None:
        """Close all present connections at once."""
        while self._open:
            self._open.pop().abort()

    def lose_answer(self) -> None:
        """Let the next commit reach the server, and cut its connection before the answer."""
        self._loses_answer = True

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._listener.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        self.cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, server[1])
        self._open.append(connection)
        for pipe in (
            self._pipe(reader, server[1], connection, to_server=True),
            self._pipe(server[0], writer, connection, to_server=False),
        ):
            task = asyncio.create_task(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        connection: _Connection,
        *,
        to_server: bool,
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                await connection.transfers.wait()
                if to_server and self._loses_answer and _COMMIT in data:
                    self._loses_answer, connection.loses_answer = False, True
                elif not to_server and connection.loses_answer:
                    self.lost_answers += 1
                    connection.abort()
                    break
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        target.close()
        if not connection.is_open and connection in self._open:
            self._open.remove(connection)


class _Connection:
    """Both ends of a connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.transfers = asyncio.Event()
        self.transfers.set()
        self.loses_answer = False
        self._writers = writers

    @property
    def is_open(self) -> bool:
        """Return True unless both ends are closed."""
        return not all(writer.is_closing() for writer in self._writers)

    def abort(self) -> None:
        """Close both ends at once."""
        for writer in self._writers:
            writer.transport.abort()
