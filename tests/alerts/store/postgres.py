"""PostgreSQL server on loopback, if the system has the programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from ...support.servers import Server, lack
from ...support.waiting import PATIENCE

PASSWORD = "hunter@2/?#"
_IN_URL = "hunter%402%2F%3F%23"
# PostgreSQL refuses to run as root.
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@contextmanager
def postgres_server(certificate: trustme.LeafCert | None = None) -> Iterator[Server]:
    """Yield a running server with the user `gateway` and a password; with TLS if it has one."""
    programs = _programs()
    if programs is None:
        lack("postgresql")
    prefix = AS_POSTGRES if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "password").write_text(PASSWORD)
        tls: list[str] = []
        if certificate is not None:
            certificate.private_key_pem.write_to_path(folder / "key.pem")
            certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
            (folder / "key.pem").chmod(0o600)
            tls = ["-l", "--ssl_cert_file=../certificate.pem", "--ssl_key_file=../key.pem"]
        if prefix:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")
        options = ["-U", "gateway", "-A", "scram-sha-256", "--no-sync", "--pwfile=password"]
        initdb = [*prefix, str(programs / "initdb"), "-D", "data", *options]
        subprocess.run(initdb, cwd=folder, check=True, capture_output=True)
        options = ["-D", "data", "-h", "127.0.0.1", "-p", "{port}", "-k", "", "-F", *tls]
        server = Server([*prefix, str(programs / "postgres"), *options], folder)
        server.start()
        try:
            yield server
        finally:
            # A killed server would not free its shared memory.
            stop = [str(programs / "pg_ctl"), "stop", "-D", "data", "-m", "immediate"]
            subprocess.run([*prefix, *stop], cwd=folder, check=True, capture_output=True)
            server.kill()
    finally:
        shutil.rmtree(folder)


def create_database(server: Server, name: str) -> str:
    """Create an empty database, wait for the server if it still starts, and return its URL."""

    async def create() -> None:
        engine = create_async_engine(url_of(server, "postgres"), isolation_level="AUTOCOMMIT")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with engine.connect() as connection:
                        drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
                        await connection.execute(text(drop))
                        await connection.execute(text(f"CREATE DATABASE {name}"))
                    break
                except Exception:  # noqa: BLE001 - a server that starts has many errors
                    await asyncio.sleep(0.05)
        await engine.dispose()

    asyncio.run(create())
    return url_of(server, name)


def url_of(server: Server, name: str) -> str:
    """Return the URL of a database."""
    return f"postgresql+asyncpg://gateway:{_IN_URL}@{server.place}/{name}"


def _programs() -> Path | None:
    """Return the folder of the programs, which is not in the PATH of Debian."""
    initdb = shutil.which("initdb")
    if initdb is not None:
        return Path(initdb).parent
    return next(iter(Path("/usr/lib/postgresql").glob("*/bin")), None)
