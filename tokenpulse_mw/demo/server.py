"""HTTP server in a thread, on the loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

_START_TIMEOUT = 10.0  # seconds


class PortError(Exception):
    """The port is not available."""


class LocalServer:
    """Context manager that serves an application with uvicorn.

    Args:
        app: The application.
        port: Port on 127.0.0.1; 0 selects a free one.

    Attributes:
        url: URL of the server, without a trailing slash.

    Raises:
        PortError: The port is in use, or not permitted.
        RuntimeError: (on entering) The application did not start.
    """

    def __init__(self, app: ASGIApp, *, port: int = 0) -> None:
        try:
            self._socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise PortError(f"cannot listen on port {port}: {error}") from None
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_config=None, access_log=False, proxy_headers=False, ws="none", lifespan="on"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise RuntimeError(f"the application on {self.url} did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_START_TIMEOUT)
        self._socket.close()

    def _serve(self) -> None:
        with suppress(SystemExit):  # raised by uvicorn if the application did not start
            self._server.run(sockets=[self._socket])
