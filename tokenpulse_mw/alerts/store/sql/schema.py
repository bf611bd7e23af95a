"""Tables of the alert store, and SQL dialects."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    cast,
    extract,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator

from ..protocol import StoreError
from ..usage import USAGE_COUNTS


async def create_tables(connection: AsyncConnection, now: ColumnElement[float]) -> None:
    """Create the tables that are missing.

    Args:
        connection: Connection with a transaction of `begin_create`.
        now: Current time.

    Raises:
        StoreError: The tables are those of another program, or of a release that is too new.
    """
    await connection.run_sync(_check_columns)
    await connection.run_sync(schema.create, checkfirst=True)
    versions = await connection.execute(select(schema).order_by(schema.c.version.desc()).limit(1))
    row = versions.first()
    if row is None:
        await connection.run_sync(metadata.create_all)
        await connection.execute(
            insert(fleet).values(id=1, epoch=0, beat=0, revision=0, complete_since=now)
        )
        values = {"version": SCHEMA_VERSION, "readable_from": SCHEMA_VERSION}
        await connection.execute(insert(schema).values(values))
    elif not row.readable_from <= SCHEMA_VERSION <= row.version:
        raise StoreError(
            f"the tables of the alert store must be readable by version {SCHEMA_VERSION}, got "
            f"version {row.version}, readable from version {row.readable_from}: install the "
            "release of tokenpulse-mw that created them, or use another database"
        )


def _check_columns(connection: Connection) -> None:
    """Raise StoreError if a table with one of our names does not have our columns."""
    inspector = inspect(connection)
    for name in sorted(metadata.tables.keys() & set(inspector.get_table_names())):
        missing = set(metadata.tables[name].c.keys()) - {
            column["name"] for column in inspector.get_columns(name)
        }
        if missing:
            raise StoreError(
                f"table {name!r} must have the columns of this release of tokenpulse-mw, got one "
                f"without {min(missing)!r}: drop the tables 'tokenpulse_alert*', or use another "
                "database or schema"
            )


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
        begin_write: Statement that begins a transaction that writes.
        begin_create: Statement that begins a transaction that excludes all that create tables.
        prepare: Statement to run before the tables are created.
        on_connect: Statements to run on each new connection.
        connect_arguments: Arguments of the driver.
        insert: Returns an INSERT that supports ON CONFLICT.
        now: Current time in seconds since the epoch.
    """

    begin_read: str
    begin_write: str
    begin_create: str
    prepare: str
    on_connect: tuple[str, ...]
    connect_arguments: dict[str, Any]
    insert: Callable[[Table], Any]
    now: ColumnElement[float]


def dialects(timeout: float, wall: Callable[[], float] | None) -> dict[str, DatabaseDialect]:
    """Return the supported dialects by name.

    Args:
        timeout: Timeout of a transaction in seconds. A writer waits for half of it for another one:
            an error of the database has a more helpful message than one of ours.
        wall: Returns seconds since the epoch; None for the clock of the database.
    """
    milliseconds = math.ceil(timeout * 1000)
    # The server ends the transaction of a client that is stopped, so that it locks no row for long.
    # PostgreSQL before 17 does so between statements only, and not while it waits for the second of
    # the two messages with which asyncpg sends a statement; there, keepalives detect a dead host.
    settings = ", ".join(
        [
            f"set_config('lock_timeout', '{math.ceil(timeout * 500)}', true)",
            f"set_config('idle_in_transaction_session_timeout', '{milliseconds}', true)",
            "CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL "
            f"THEN set_config('transaction_timeout', '{milliseconds}', true) END",
            f"set_config('tcp_keepalives_idle', '{math.ceil(timeout)}', true)",
            f"set_config('tcp_keepalives_interval', '{math.ceil(timeout / 2)}', true)",
            "set_config('tcp_keepalives_count', '2', true)",
        ]
    )
    return {
        "sqlite": DatabaseDialect(
            begin_read="BEGIN",
            begin_write="BEGIN IMMEDIATE",
            begin_create="BEGIN IMMEDIATE",
            prepare="PRAGMA journal_mode=WAL",  # readers do not wait for writers
            # FULL: a committed transaction is on the disk.
            on_connect=("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"),
            connect_arguments={"timeout": timeout / 2},
            insert=sqlite.insert,
            now=_time_of(wall or time.time),
        ),
        "postgresql": DatabaseDialect(
            begin_read="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            begin_write=f"SELECT {settings}",  # one statement: a prepared one cannot be several
            begin_create=f"SELECT {settings}, pg_advisory_xact_lock({_LOCK_KEY})",
            prepare="SELECT 1",
            on_connect=(),
            connect_arguments={},
            insert=postgresql.insert,
            now=_server_time() if wall is None else _time_of(wall),
        ),
    }


def _server_time() -> ColumnElement[float]:
    """Return the current time of PostgreSQL; `now()` is that of the transaction's start."""
    return cast(extract("epoch", func.clock_timestamp()), Double)


def _time_of(wall: Callable[[], float]) -> ColumnElement[float]:
    """Return a parameter that is the result of `wall` when a statement is executed."""
    return bindparam("wall", callable_=wall, type_=Double)


# Tables only gain columns with defaults, so that the release before can read them during a
# deployment. `readable_from` is the lowest version whose release reads the tables.
SCHEMA_VERSION = 3

metadata = MetaData()

schema = Table(
    "tokenpulse_alert_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("readable_from", Integer, nullable=False),
)

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
    Index("tokenpulse_alerts_state", "state", "started_at", "id"),
    Index("tokenpulse_alerts_severity", "severity", "started_at", "id"),
    Index("tokenpulse_alerts_resolved", "state", "resolved_at", "id"),
    # The length of these columns is unlimited, an index entry of PostgreSQL is not, except in a
    # hash index.
    Index("tokenpulse_alerts_type", "type", "started_at", "id").ddl_if("sqlite"),
    Index("tokenpulse_alerts_subject", "subject", "started_at", "id").ddl_if("sqlite"),
    Index("tokenpulse_alerts_subject_hash", "subject", postgresql_using="hash").ddl_if(
        "postgresql"
    ),
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

settings = Table(
    "tokenpulse_alert_settings",
    metadata,
    Column("name", SafeText, primary_key=True),
    Column("value", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", SafeText, nullable=False),
)

# One row. Each transaction that locks several rows locks this one first, so none is a deadlock.
fleet = Table(
    "tokenpulse_alert_fleet",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("holder", SafeText),
    Column("revision", BigInteger, nullable=False),
    Column("evaluated_at", Double),
    Column("complete_since", Double, nullable=False),
)

members = Table(
    "tokenpulse_alert_members",
    metadata,
    Column("name", SafeText, primary_key=True),
    Column("host", SafeText, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("version", SafeText, nullable=False),
    Column("protocol", Integer, nullable=False),
    Column("rules", Text, nullable=False),
    Column("sinks", Text, nullable=False),
    Column("leads", Boolean, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("profile", SafeText, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("pushed", BigInteger, nullable=False),
    Column("through", BigInteger, nullable=False),
)

batches = Table(
    "tokenpulse_alert_batches",
    metadata,
    Column("process", SafeText, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("slot", BigInteger, nullable=False),
    Column("protocol", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

usage = Table(
    "tokenpulse_alert_usage",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),  # hours since the epoch
    Column("tenant", SafeText, primary_key=True),
    Column("model", SafeText, primary_key=True),
    Column("provider", SafeText, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in USAGE_COUNTS),
    Column("revision", BigInteger, nullable=False),  # number of additions
    Column("exported", BigInteger, nullable=False),  # revision that was exported
)

# No row has a key of more than 1,024 bytes: an index entry of PostgreSQL is limited.
limits = Table(
    "tokenpulse_alert_limits",
    metadata,
    Column("policy", SafeText, primary_key=True),
    Column("process", SafeText, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("used", BigInteger, nullable=False),
    Column("ends", Double, nullable=False),
)

# Row 0 of the process "" has the time until which samples are requested.
samples = Table(
    "tokenpulse_alert_samples",
    metadata,
    Column("process", SafeText, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index("tokenpulse_alert_samples_at", "at"),
)

windows = Table(
    "tokenpulse_alert_windows",
    metadata,
    Column("kind", SafeText, primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("protocol", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
