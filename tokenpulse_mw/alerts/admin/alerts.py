"""The alerts: what is wrong, what was, and who has seen it."""

from __future__ import annotations

from ...web.problems import not_found
from ..store.records import SEVERITIES, STATES, AlertRecord
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import choice, cursor, integer, subject, text
from .serializers import Covers, alert, covered, details


async def list_alerts(asked: AdminRequest) -> AdminResponse:
    """A page of alerts, the newest first."""
    page = await asked.engine.store.alerts(**asked.query)
    covers = _covers(asked)
    return AdminResponse(schemas.AlertPage([alert(each, covers) for each in page.items], page.next))


async def get_alert(asked: AdminRequest) -> AdminResponse:
    """One alert, and what happened to it."""
    store, alert_id = asked.engine.store, asked.request.path_params["id"]
    record = await store.alert(alert_id)
    if record is None:
        raise not_found("alert")
    return AdminResponse(details(record, _covers(asked), await store.transitions(alert_id)))


async def acknowledge_alert(asked: AdminRequest) -> AdminResponse:
    """Note that somebody has seen an alert."""
    alert_id = asked.request.path_params["id"]
    controls = asked.engine.controls
    return _now(asked, await controls.acknowledge(alert_id, by=asked.by, note=asked.body.note))


async def unacknowledge_alert(asked: AdminRequest) -> AdminResponse:
    """Take back that somebody has seen an alert."""
    alert_id = asked.request.path_params["id"]
    return _now(asked, await asked.engine.controls.unacknowledge(alert_id))


def _now(asked: AdminRequest, record: AlertRecord | None) -> AdminResponse:
    if record is None:
        raise not_found("alert")
    return AdminResponse(alert(record, _covers(asked)))


def _covers(asked: AdminRequest) -> Covers:
    return covered(asked.engine.controls)


OPERATIONS = (
    Operation(
        method="GET",
        path="",
        handle=list_alerts,
        summary="Alerts, the newest first",
        response_type=schemas.AlertPage,
        query=(
            choice("state", "Only those in this state", STATES),
            choice("severity", "Only those of this severity", SEVERITIES),
            text("type", "Only those of this type, such as error_spike"),
            subject("subject", "Only those about this one, as kind:id"),
            integer("limit", "How many at most", most=1000, default=100),
            cursor("cursor", "The next of the page before"),
        ),
    ),
    Operation(
        method="GET",
        path="/{id}",
        handle=get_alert,
        summary="One alert, and what happened to it",
        response_type=schemas.AlertDetails,
        error_statuses=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/ack",
        handle=acknowledge_alert,
        summary="Note that somebody has seen an alert: nobody is reminded of it any more",
        response_type=schemas.Alert,
        body_type=schemas.AcknowledgementBody,
        optional=True,
        error_statuses=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/unack",
        handle=unacknowledge_alert,
        summary="Take back that somebody has seen an alert",
        response_type=schemas.Alert,
        error_statuses=(404,),
    ),
)
