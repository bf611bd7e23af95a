"""The alerts: what is wrong, what was, and who has seen it."""

from __future__ import annotations

from ...problems import not_found
from ..store.records import SEVERITIES, STATES, AlertRecord
from . import schemas, takes
from .operation import Answer, Asked, Operation
from .parameters import choice, cursor, subject, text, whole
from .views import Covers, alert, covered, details


async def list_alerts(asked: Asked) -> Answer:
    """A page of alerts, the newest first."""
    page = await asked.engine.store.alerts(**asked.query)
    covers = _covers(asked)
    return Answer(schemas.AlertPage([alert(each, covers) for each in page.items], page.next))


async def get_alert(asked: Asked) -> Answer:
    """One alert, and what happened to it."""
    store, alert_id = asked.engine.store, asked.request.path_params["id"]
    record = await store.alert(alert_id)
    if record is None:
        raise not_found("alert")
    return Answer(details(record, _covers(asked), await store.transitions(alert_id)))


async def acknowledge_alert(asked: Asked) -> Answer:
    """Note that somebody has seen an alert."""
    alert_id = asked.request.path_params["id"]
    controls = asked.engine.controls
    return _now(asked, await controls.acknowledge(alert_id, by=asked.by, note=asked.body.note))


async def unacknowledge_alert(asked: Asked) -> Answer:
    """Take back that somebody has seen an alert."""
    alert_id = asked.request.path_params["id"]
    return _now(asked, await asked.engine.controls.unacknowledge(alert_id))


def _now(asked: Asked, record: AlertRecord | None) -> Answer:
    if record is None:
        raise not_found("alert")
    return Answer(alert(record, _covers(asked)))


def _covers(asked: Asked) -> Covers:
    return covered(asked.engine.controls)


OPERATIONS = (
    Operation(
        method="GET",
        path="",
        handle=list_alerts,
        summary="Alerts, the newest first",
        gives=schemas.AlertPage,
        query=(
            choice("state", "Only those in this state", STATES),
            choice("severity", "Only those of this severity", SEVERITIES),
            text("type", "Only those of this type, such as error_spike"),
            subject("subject", "Only those about this one, as kind:id"),
            whole("limit", "How many at most", most=1000, default=100),
            cursor("cursor", "The next of the page before"),
        ),
    ),
    Operation(
        method="GET",
        path="/{id}",
        handle=get_alert,
        summary="One alert, and what happened to it",
        gives=schemas.AlertDetails,
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/ack",
        handle=acknowledge_alert,
        summary="Note that somebody has seen an alert: nobody is reminded of it any more",
        gives=schemas.Alert,
        takes=takes.AcknowledgementBody,
        optional=True,
        refusals=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/unack",
        handle=unacknowledge_alert,
        summary="Take back that somebody has seen an alert",
        gives=schemas.Alert,
        refusals=(404,),
    ),
)
