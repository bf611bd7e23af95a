"""Tables of the alert store, and SQL dialects."""

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


async def create_tables(connection: AsyncConnection) -> None:
    """Create the tables that are missing.

    Raises:
        StoreError: The tables have another version.
    """
    await connection.run_sync(schema.create, checkfirst=True)
    version = await connection.scalar(select(func.max(schema.c.version)))
    if version is None:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    elif version != SCHEMA_VERSION:
        raise StoreError(
            f"the tables of the alert store must have version {SCHEMA_VERSION}, got {version}: "
            "install the release of tokenpulse-mw that created them, or use another database"
        )
    else:
        await connection.run_sync(engines.create, checkfirst=True)  # added within version 1


# Characters that are stored as escapes: NUL, which PostgreSQL rejects, surrogates, which UTF-8 does
# not have, and the backslash of the escapes.
_UNSAFE = re.compile("[\x00\\\\\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")

# SQLite generates numbers for this type only.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class SafeText(TypeDecorator[str]):
    r"""Arbitrary text, such as names from traffic; unsafe characters are stored as `\uXXXX`.

    It is compared and sorted by code points, not by the collation of a locale.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return a type that PostgreSQL compares by code points too."""
        exact = Text(collation="C") if dialect.name == "postgresql" else Text()
        return dialect.type_descriptor(exact)

    def process_bind_param(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - part of SQLAlchemy's signature
    ) -> str | None:
        """Return the text to store."""
        return value and _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)

    def process_result_value(
        self,
        value: Any | None,
        dialect: Dialect,  # noqa: ARG002 - part of SQLAlchemy's signature
    ) -> str | None:
        """Return the original text."""
        return value and _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


_LOCK_KEY = 0x746F6B656E  # unlikely to be the lock of another program


@dataclass(frozen=True, slots=True)
class DatabaseDialect:
    """Statements and driver options of one kind of database.

    Attributes:
        begin_read: Statement that begins a transaction on one snapshot.
        begin_write: Statement that begins a transaction that excludes all other writers.
        prepare: Statement to run before the tables are created.
        on_connect: Statements to run on each new connection.
        connect_arguments: Arguments of the driver.
        insert: Returns an INSERT that supports ON CONFLICT.
    """

    begin_read: str
    begin_write: str
    prepare: str
    on_connect: tuple[str, ...]
    connect_arguments: dict[str, Any]
    insert: Callable[[Table], Any]


def dialects(lock_timeout: float) -> dict[str, DatabaseDialect]:
    """Return the supported dialects by name.

    Args:
        lock_timeout: Seconds that a SQLite writer waits for another one.
    """
    return {
        "sqlite": DatabaseDialect(
            begin_read="BEGIN",
            begin_write="BEGIN IMMEDIATE",
            prepare="PRAGMA journal_mode=WAL",  # readers do not wait for writers
            # FULL: a committed transaction is on the disk.
            on_connect=("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"),
            connect_arguments={"timeout": lock_timeout},
            insert=sqlite.insert,
        ),
        "postgresql": DatabaseDialect(
            begin_read="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            begin_write=f"SELECT pg_advisory_xact_lock({_LOCK_KEY})",
            prepare="SELECT 1",
            on_connect=(),
            connect_arguments={},
            insert=postgresql.insert,
        ),
    }


# A new version needs a migration. A new table that older releases ignore does not need a version.
SCHEMA_VERSION = 1

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
    Column("subject", SafeText, nullable=False),  # of the finding, for queries
    Column("finding", Text, nullable=False),
    Column("since", Double, nullable=False),
    Column("last_notified_at", Double, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("fired_at", Double),
    Column("resolved_at", Double),
    Column("resolve_reason", SafeText),
    Column("ack", Text),
    Column("notified_severity", SafeText),
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
    # Without the fingerprint: its length is unlimited, an index entry of PostgreSQL is not.
    UniqueConstraint("alert_id", "at", "transition", "severity", "value"),
    Index("tokenpulse_alert_transitions_newest", "alert_id", "seq"),
)

notifications = Table(
    "tokenpulse_alert_notifications",
    metadata,
    Column("seq", RowNumber, primary_key=True),
    Column("id", SafeText, nullable=False, unique=True),
    Column("sink", SafeText, nullable=False),
    Column("alert_id", SafeText, nullable=False),  # no foreign key: the alert may be deleted first
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

# One row: the engine that stored the last evaluation.
engines = Table(
    "tokenpulse_alert_engines",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("engine", SafeText, nullable=False),
)
