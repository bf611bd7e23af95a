"""PgBouncer on loopback, if the system has it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...support.servers import Server, need
from .postgres import AS_POSTGRES, PASSWORD


@contextmanager
def pgbouncer(postgres: Server) -> Iterator[Server]:
    """Yield a PgBouncer in transaction mode with two connections to `postgres`."""
    need("pgbouncer", "pgbouncer")
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "users.txt").write_text(f'"gateway" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": "{port}",
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": "2",
        }
        server = Server([*_prefix(folder), "pgbouncer", "pgbouncer.ini"], folder)
        lines = [f"{name} = {value}" for name, value in settings.items()]
        databases = f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\n"
        text = databases + "\n".join(lines).format(port=server.port)
        (folder / "pgbouncer.ini").write_text(text)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


def _prefix(folder: Path) -> list[str]:
    """Return the start of a command that does not run as root, which PgBouncer refuses."""
    if os.geteuid():
        return []
    shutil.chown(folder, "postgres", "postgres")
    return AS_POSTGRES
