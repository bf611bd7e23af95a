"""A way to a server that can be lost without a word."""

from __future__ import annotations

import asyncio
from typing import Self


class Proxy:
    """Stands before a server of loopback; `async with` it.

    Args:
        port: Of the server.

    Attributes:
        port: Its own.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._open: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._pipes: set[asyncio.Task[None]] = set()

    def lose(self) -> None:
        """Let every connection that there is fall silent; new ones are as good as before."""
        while self._open:
            self._open.pop().clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        speaks = asyncio.Event()
        speaks.set()
        self._open.append(speaks)
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            self._pipes.add(asyncio.create_task(_pipe(source, sink, speaks)))


async def _pipe(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, speaks: asyncio.Event
) -> None:
    try:
        while data := await source.read(1 << 16):
            await speaks.wait()
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    sink.close()
