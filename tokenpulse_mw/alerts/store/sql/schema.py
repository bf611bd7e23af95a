"""Makes the tables where they are missing, and refuses those of another version."""

from __future__ import annotations

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..protocol import StoreError
from .tables import VERSION, engines, metadata, schema


async def make_tables(connection: AsyncConnection) -> None:
    """Make what is missing; where all is there, nothing happens.

    Raises:
        StoreError: The tables are of another version.
    """
    await connection.run_sync(schema.create, checkfirst=True)
    found = await connection.scalar(select(func.max(schema.c.version)))
    if found is None:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(schema).values(version=VERSION))
    elif found != VERSION:
        raise StoreError(
            f"the tables of the alert store are of version {found}, and this tokenpulse-mw knows "
            f"version {VERSION}: install the one that made them, or name another database"
        )
    else:
        await connection.run_sync(engines.create, checkfirst=True)  # it came later
