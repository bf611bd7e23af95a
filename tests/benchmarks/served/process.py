"""Process of uvicorn that serves one variant, and reports its CPU time.

Run as `python -m tests.benchmarks.served.process VARIANT SOCKET`, with the file descriptor of a
listening socket. Each line of the standard input is answered with the seconds of CPU time that the
process has used; its end stops the server.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI

from .gateway import VARIANTS, gateway

NOT_INSTALLED = 3  # exit status


def application(variant: str) -> FastAPI:
    """Return the gateway with the parts of `variant`; exit if a peer is not installed."""
    app = gateway()
    try:
        VARIANTS[variant](app)
    except ModuleNotFoundError:
        sys.exit(NOT_INSTALLED)
    return app


def main(variant: str, descriptor: str) -> None:
    """Serve `variant` until the standard input ends."""
    logging.getLogger("tokenpulse_mw").setLevel(logging.ERROR)
    config = uvicorn.Config(
        application(variant), log_level="critical", access_log=False, timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    print("ready", flush=True)

    def report() -> None:
        for _ in sys.stdin:
            print(time.process_time(), flush=True)
        server.should_exit = True

    threading.Thread(target=report, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main(*sys.argv[1:])
