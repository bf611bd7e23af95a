"""A real PostgreSQL of loopback, where the system has one."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from ...support.servers import Server, lack
from ...support.waiting import PATIENCE

PASSWORD = "hunter@2/?#"
_IN_URL = "hunter%402%2F%3F%23"
# It refuses to run as root.
_AS_ITSELF = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL with one user, `gateway`, who has a password."""
    programs = _programs()
    if programs is None:
        lack("postgresql")
    prefix = _AS_ITSELF if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "password").write_text(PASSWORD)
        if prefix:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        make = ["initdb", "-D", "data", "-U", "gateway", "-A", "scram-sha-256", "--no-sync"]
        make[0] = str(programs / make[0])
        subprocess.run(
            [*prefix, *make, "--pwfile=password"], cwd=folder, check=True, capture_output=True
        )
        run = ["-D", "data", "-h", "127.0.0.1", "-p", "{port}", "-k", "", "-F"]
        server = Server([*prefix, str(programs / "postgres"), *run], folder)
        server.start()
        try:
            yield server
        finally:
            # One that is killed would leave its shared memory behind.
            stop = [str(programs / "pg_ctl"), "stop", "-D", "data", "-m", "immediate"]
            subprocess.run([*prefix, *stop], cwd=folder, check=True, capture_output=True)
            server.kill()
    finally:
        shutil.rmtree(folder)


def new_database(server: Server, name: str) -> str:
    """The URL of a database of that name, made anew; waits for a server that still starts."""

    async def make() -> None:
        engine = create_async_engine(url_of(server, "postgres"), isolation_level="AUTOCOMMIT")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with engine.connect() as connection:
                        drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
                        await connection.execute(text(drop))
                        await connection.execute(text(f"CREATE DATABASE {name}"))
                    break
                except Exception:  # noqa: BLE001 - whatever a server says that is not ready yet
                    await asyncio.sleep(0.05)
        await engine.dispose()

    asyncio.run(make())
    return url_of(server, name)


def url_of(server: Server, name: str) -> str:
    """Where a database is."""
    return f"postgresql+asyncpg://gateway:{_IN_URL}@{server.place}/{name}"


def _programs() -> Path | None:
    """The folder of the programs, which Debian keeps out of the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    return next(iter(Path("/usr/lib/postgresql").glob("*/bin")), None)
