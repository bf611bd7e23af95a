"""The tables; the names begin alike, so that they can lie in a database of somebody's own."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from .columns import RowNumber, SafeText

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
