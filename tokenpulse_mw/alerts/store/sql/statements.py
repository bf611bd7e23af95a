"""SQL statements of the alert store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from ..paging import Position
from ..protocol import MAX_TRANSITIONS
from .schema import (
    DatabaseDialect,
    alerts,
    notifications,
    settings,
    silences,
    thresholds,
    transitions,
)

_RESOLVED = alerts.c.state == "resolved"
_DEAD = notifications.c.dead_at.is_not(None)
_WAITING = notifications.c.dead_at.is_(None)
_NOTIFICATION = notifications.c.id == bindparam("notification_id")
_NEWEST_DEAD = (
    select(notifications)
    .where(_DEAD)
    .order_by(notifications.c.dead_at.desc(), notifications.c.seq.desc())
)
_BEYOND_HISTORY = bindparam("max_history", type_=Integer)

# An evaluation does not change acknowledgements: one may be newer than the evaluation.
_CHANGED_BY_COMMIT = [column.name for column in alerts.c if column.name not in ("id", "ack")]


def _lasting_silences(now: ColumnElement[Any]) -> Select[Any]:
    """Return the query of the silences that end after `now`."""
    lasting = select(silences).where(silences.c.ends_at > now)
    return lasting.order_by(silences.c.starts_at, silences.c.id)


class Statements:
    """Statements of the alert store; their parameters are columns and the names of `bindparam`.

    Args:
        dialect: Dialect of the database.
    """

    alert = select(alerts).where(alerts.c.id == bindparam("alert_id"))
    open_alerts = select(alerts).where(~_RESOLVED).order_by(alerts.c.started_at, alerts.c.id)
    stored_ids = select(alerts.c.id).where(alerts.c.id.in_(bindparam("alert_ids", expanding=True)))
    set_ack = update(alerts).where(alerts.c.id == bindparam("alert_id"))
    delete_alert = delete(alerts).where(alerts.c.id == bindparam("alert_id"))
    prune_alerts = delete(alerts).where(_RESOLVED, alerts.c.resolved_at < bindparam("before"))
    trim_alerts = delete(alerts).where(
        alerts.c.id.in_(
            select(alerts.c.id)
            .where(_RESOLVED)
            .order_by(alerts.c.resolved_at.desc(), alerts.c.id.desc())
            .offset(_BEYOND_HISTORY)
        )
    )

    transitions_of_alert = (
        select(transitions)
        .where(transitions.c.alert_id == bindparam("alert_id"))
        .order_by(transitions.c.seq)
    )
    trim_transitions = delete(transitions).where(
        transitions.c.seq.in_(
            select(transitions.c.seq)
            .where(transitions.c.alert_id == bindparam("alert_id"))
            .order_by(transitions.c.seq.desc())
            .offset(MAX_TRANSITIONS)
            .scalar_subquery()
        )
    )

    waiting = select(notifications).where(_WAITING).order_by(notifications.c.seq)
    queue_lengths = (
        select(notifications.c.sink, func.count().label("waiting"))
        .where(_WAITING)
        .group_by(notifications.c.sink)
    )
    dead_letter_counts = (
        select(notifications.c.sink, func.count().label("waiting"))
        .where(_DEAD)
        .group_by(notifications.c.sink)
    )
    update_waiting = update(notifications).where(_NOTIFICATION, _WAITING)
    claim = (
        update(notifications)
        .where(_NOTIFICATION, _WAITING)
        .values(attempts=notifications.c.attempts + 1)
    )
    delete_notification = delete(notifications).where(_NOTIFICATION)
    newest_dead = _NEWEST_DEAD.limit(bindparam("limit", type_=Integer))
    prune_dead = delete(notifications).where(notifications.c.dead_at < bindparam("before"))
    trim_dead = delete(notifications).where(
        notifications.c.seq.in_(
            _NEWEST_DEAD.with_only_columns(notifications.c.seq).offset(_BEYOND_HISTORY)
        )
    )

    lasting_silences = _lasting_silences(bindparam("now"))
    add_silence = insert(silences)
    delete_silence = delete(silences).where(silences.c.id == bindparam("silence_id"))
    prune_silences = delete(silences).where(silences.c.ends_at < bindparam("before"))

    newest_thresholds = (
        select(thresholds)
        .order_by(thresholds.c.version.desc())
        .limit(bindparam("limit", type_=Integer))
    )
    current_version = select(func.max(thresholds.c.version))
    add_thresholds = insert(thresholds)
    trim_thresholds = delete(thresholds).where(thresholds.c.version <= bindparam("last"))

    settings = select(settings.c.name, settings.c.value)

    def __init__(self, dialect: DatabaseDialect) -> None:
        alert, setting = dialect.insert(alerts), dialect.insert(settings)
        changed = {name: alert.excluded[name] for name in _CHANGED_BY_COMMIT}
        self.put_alert = alert.on_conflict_do_update(index_elements=["id"], set_=changed)
        self.put_setting = setting.on_conflict_do_update(
            index_elements=["name"],
            set_={name: setting.excluded[name] for name in ("value", "at", "by")},
        )
        self.current_silences = _lasting_silences(dialect.now)
        self.add_transition = dialect.insert(transitions).on_conflict_do_nothing()
        self.add_notification = dialect.insert(notifications).on_conflict_do_nothing()

    @staticmethod
    def page(
        accepted: Mapping[str, tuple[str, ...]], after: Position | None, limit: int
    ) -> Select[Any]:
        """Return the query of at most `limit` alerts, the newest first.

        Args:
            accepted: Accepted values by column.
            after: Position of the last alert of the previous page.
            limit: Maximum number of alerts.
        """
        query = select(alerts)
        for name, values in accepted.items():
            query = query.where(alerts.c[name].in_(values))
        if after is not None:
            query = query.where(tuple_(alerts.c.started_at, alerts.c.id) < tuple(after))
        return query.order_by(alerts.c.started_at.desc(), alerts.c.id.desc()).limit(limit)
