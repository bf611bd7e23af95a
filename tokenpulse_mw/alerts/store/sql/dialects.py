"""Where the databases that can be used differ; nothing else of the store knows which it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

_LOCK = 0x746F6B656E  # any number that no other program locks


@dataclass(frozen=True, slots=True)
class Dialect:
    """What to say to one kind of database.

    Attributes:
        read: Begins a transaction that sees everything as of one moment.
        write: Begins a transaction that no other writer, of any process, runs beside.
        first: Said before the tables are made.
        on_connect: Said first on each connection.
        connect_arguments: For its driver.
        insert: Makes an INSERT that may say ON CONFLICT.
    """

    read: str
    write: str
    first: str
    on_connect: tuple[str, ...]
    connect_arguments: dict[str, Any]
    insert: Callable[[Table], Any]


def dialects(timeout: float) -> dict[str, Dialect]:
    """Every kind by its name; in SQLite a writer waits `timeout` seconds for another one."""
    return {
        "sqlite": Dialect(
            read="BEGIN",
            write="BEGIN IMMEDIATE",
            first="PRAGMA journal_mode=WAL",  # so that a reader never waits for a writer
            # What is committed is on the disk.
            on_connect=("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"),
            connect_arguments={"timeout": timeout},
            insert=sqlite.insert,
        ),
        "postgresql": Dialect(
            read="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            write=f"SELECT pg_advisory_xact_lock({_LOCK})",
            first="SELECT 1",
            on_connect=(),
            connect_arguments={},
            insert=postgresql.insert,
        ),
    }
