"""TCP proxy whose connections can stop to transfer data."""

from __future__ import annotations

import asyncio
from typing import Self


class Proxy:
    """Async context manager that runs a proxy of a local server.

    Args:
        port: Port of the server.

    Attributes:
        port: Port of the proxy.
        lost_before: A connection stops to transfer data when its client sends these bytes.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.lost_before: bytes | None = None
        self._server_port = port
        self._open: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()

    def lose(self) -> None:
        """Stop the transfer of all present connections without closing them."""
        while self._open:
            self._open.pop().clear()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._listener.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        transfers = asyncio.Event()
        transfers.set()
        self._open.append(transfers)
        self._writers += [writer, server_writer]
        for source, target in ((reader, server_writer), (server_reader, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(source, target, transfers)))

    async def _pipe(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, transfers: asyncio.Event
    ) -> None:
        try:
            while True:
                data = await source.read(1 << 16)
                if self.lost_before is not None and self.lost_before in data:
                    transfers.clear()
                await transfers.wait()
                if not data:
                    break
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        target.close()
