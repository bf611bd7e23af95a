"""Makes the tables where they are missing, and refuses those of another version."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator

from ..protocol import StoreError


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


# A NUL, which PostgreSQL refuses, halves of surrogate pairs, which no UTF-8 has, and `\` itself.
_UNSAFE = re.compile("[\x00\\\\\ud800-\udfff]")


_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")


# SQLite numbers its rows by themselves only under this very type.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class SafeText(TypeDecorator[str]):
    r"""Any text, also such as traffic brings: what a database would refuse is kept as `\uXXXX`.

    It is compared and sorted by code points, not as in some language.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Compare by code points in PostgreSQL too."""
        exact = Text(collation="C") if dialect.name == "postgresql" else Text()
        return dialect.type_descriptor(exact)

    def process_bind_param(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> str | None:
        """What is written."""
        return value and _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", value)

    def process_result_value(
        self,
        value: Any | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy calls it so
    ) -> str | None:
        """What was meant."""
        return value and _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)


_LOCK = 0x746F6B656E  # any number that no other program locks


@dataclass(frozen=True, slots=True)
class DatabaseDialect:
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


def dialects(timeout: float) -> dict[str, DatabaseDialect]:
    """Every kind by its name; in SQLite a writer waits `timeout` seconds for another one."""
    return {
        "sqlite": DatabaseDialect(
            read="BEGIN",
            write="BEGIN IMMEDIATE",
            first="PRAGMA journal_mode=WAL",  # so that a reader never waits for a writer
            # What is committed is on the disk.
            on_connect=("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"),
            connect_arguments={"timeout": timeout},
            insert=sqlite.insert,
        ),
        "postgresql": DatabaseDialect(
            read="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            write=f"SELECT pg_advisory_xact_lock({_LOCK})",
            first="SELECT 1",
            on_connect=(),
            connect_arguments={},
            insert=postgresql.insert,
        ),
    }


VERSION = 1  # of all that follows: whoever changes it writes the step from the one before, but


# where there is only a table more, which an older tokenpulse-mw does not look at

metadata = MetaData()


schema = Table("tokenpulse_alert_schema", metadata, Column("version", Integer, primary_key=True))


alerts = Table(
    "tokenpulse_alerts",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("fingerprint", SafeText, nullable=False),
    Column("rule", SafeText, nullable=False),
    Column("type", SafeText, nullable=False),
    Column("severity", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("subject", SafeText, nullable=False),  # what the finding says, to be asked for
    Column("finding", Text, nullable=False),
    Column("since", Double, nullable=False),
    Column("told", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("fired_at", Double),
    Column("resolved_at", Double),
    Column("resolve_reason", SafeText),
    Column("ack", Text),
    Column("told_as", SafeText),
    Index("tokenpulse_alerts_newest", "started_at", "id"),
    Index("tokenpulse_alerts_resolved", "state", "resolved_at", "id"),
)


transitions = Table(
    "tokenpulse_alert_transitions",
    metadata,
    Column("seq", RowNumber, primary_key=True),
    Column("alert_id", SafeText, ForeignKey(alerts.c.id, ondelete="CASCADE"), nullable=False),
    Column("fingerprint", SafeText, nullable=False),
    Column("transition", SafeText, nullable=False),
    Column("severity", SafeText, nullable=False),
    Column("value", Double, nullable=False),
    Column("at", Double, nullable=False),
    # An alert has one fingerprint, which is of any length: PostgreSQL's indexes hold 2,704 bytes.
    UniqueConstraint("alert_id", "at", "transition", "severity", "value"),
    Index("tokenpulse_alert_transitions_newest", "alert_id", "seq"),
)


notifications = Table(
    "tokenpulse_alert_notifications",
    metadata,
    Column("seq", RowNumber, primary_key=True),
    Column("id", SafeText, nullable=False, unique=True),
    Column("sink", SafeText, nullable=False),
    Column("alert_id", SafeText, nullable=False),  # which may be gone before this is delivered
    Column("fingerprint", SafeText, nullable=False),
    Column("event", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("last_error", SafeText),
    Column("dead_at", Double),
    Index("tokenpulse_alert_notifications_dead", "dead_at", "seq"),
)


silences = Table(
    "tokenpulse_alert_silences",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("matchers", Text, nullable=False),
    Column("starts_at", Double, nullable=False),
    Column("ends_at", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
    Column("comment", SafeText, nullable=False),
)


thresholds = Table(
    "tokenpulse_alert_thresholds",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("values", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", SafeText, nullable=False),
)


# Whose round was kept last: there is one row.
engines = Table(
    "tokenpulse_alert_engines",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("engine", SafeText, nullable=False),
)
