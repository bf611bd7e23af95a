"""TCP proxy whose connections can stop to transfer data, be cut, or lose the answer of a commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

_COMMIT = b"COMMIT;"  # as asyncpg sends it


class Proxy:
    """Async context manager that runs a proxy of a local server.

    Args:
        port: Port of the server.

    Attributes:
        port: Port of the proxy.
        lost_before: A connection stops to transfer data when its client sends these bytes.
        holds: New connections transfer no data.
        loses_answer: The next commit reaches the server, and its connection is cut before the
            answer; then it is False again.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.holds = self.loses_answer = False
        self.lost_before: bytes | None = None
        self._server_port = port
        self._connections: set[_Connection] = set()
        self._pipes: set[asyncio.Task[None]] = set()

    def lose(self) -> None:
        """Stop the transfer of all present connections without closing them."""
        for connection in self._connections:
            connection.transfers.clear()

    def cut(self) -> None:
        """Close all present connections at once."""
        for connection in self._connections:
            connection.abort()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._listener.close()
        self.cut()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, server[1])
        if self.holds:
            connection.transfers.clear()
        self._connections.add(connection)
        pipes = [
            asyncio.create_task(self._to_server(connection, reader, server[1])),
            asyncio.create_task(self._to_client(connection, server[0], writer)),
        ]
        self._pipes.update(pipes)
        await asyncio.wait(pipes)
        self._pipes.difference_update(pipes)
        self._connections.discard(connection)

    async def _to_server(
        self, connection: _Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        async for data in connection.read(source):
            if self.lost_before is not None and self.lost_before in data:
                connection.transfers.clear()
            if self.loses_answer and _COMMIT in data:
                self.loses_answer, connection.loses_answer = False, True
            await connection.write(target, data)

    async def _to_client(
        self, connection: _Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        async for data in connection.read(source):
            if connection.loses_answer:
                connection.abort()
            await connection.write(target, data)


class _Connection:
    """Both ends of a connection.

    Attributes:
        transfers: Not set while the connection transfers no data.
        loses_answer: The next data of the server is lost, and with it the connection.
    """

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.transfers = asyncio.Event()
        self.transfers.set()
        self.loses_answer = False
        self._writers = writers

    async def read(self, source: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield the data of an end, and at last an empty text."""
        data = b"."
        while data:
            try:
                data = await source.read(1 << 16)
            except ConnectionError:
                data = b""
            yield data

    async def write(self, target: asyncio.StreamWriter, data: bytes) -> None:
        """Transfer data to an end, as soon as the connection does; close it after the last."""
        await self.transfers.wait()
        if not data:
            target.close()
        elif not target.is_closing():
            target.write(data)
            with suppress(ConnectionError):
                await target.drain()

    def abort(self) -> None:
        """Close both ends at once."""
        self.transfers.set()
        for writer in self._writers:
            writer.transport.abort()
