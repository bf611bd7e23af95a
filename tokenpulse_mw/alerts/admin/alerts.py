"""Operations on alerts: list, details, acknowledgement."""

from __future__ import annotations

from ...web.parameters import choice, integer, text
from ...web.problems import not_found
from ..store.records import SEVERITIES, STATE_FILTERS, AlertRecord
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import cursor, subject
from .serializers import alert, details


async def list_alerts(request: AdminRequest) -> AdminResponse:
    """Return a page of alerts, newest first."""
    engine = request.engine
    page = await engine.store.alerts(**request.query)
    alerts = [alert(record, engine.controls) for record in page.items]
    return AdminResponse(schemas.AlertPage(alerts, page.next))


async def get_alert(request: AdminRequest) -> AdminResponse:
    """Return an alert with its transitions."""
    engine, alert_id = request.engine, request.http.path_params["id"]
    record = await engine.store.alert(alert_id)
    if record is None:
        raise not_found("alert")
    transitions = await engine.store.transitions(alert_id)
    return AdminResponse(details(record, engine.controls, transitions))


async def acknowledge_alert(request: AdminRequest) -> AdminResponse:
    """Acknowledge an alert."""
    alert_id = request.http.path_params["id"]
    record = await request.engine.controls.acknowledge(
        alert_id, by=request.author, note=request.body.note
    )
    return _alert(request, record)


async def unacknowledge_alert(request: AdminRequest) -> AdminResponse:
    """Remove the acknowledgement of an alert."""
    alert_id = request.http.path_params["id"]
    return _alert(request, await request.engine.controls.unacknowledge(alert_id))


def _alert(request: AdminRequest, record: AlertRecord | None) -> AdminResponse:
    if record is None:
        raise not_found("alert")
    return AdminResponse(alert(record, request.engine.controls))


OPERATIONS = (
    Operation(
        method="GET",
        path="",
        handle=list_alerts,
        summary="List alerts, newest first",
        response_type=schemas.AlertPage,
        query=(
            choice(
                "state",
                "State of the alerts; `active` selects firing and recovering ones",
                STATE_FILTERS,
            ),
            choice("severity", "Severity of the alerts", SEVERITIES),
            text("type", "Type of the alerts, such as error_spike"),
            subject("subject", "Subject of the alerts as kind:id, such as provider:claude"),
            integer("limit", "Maximum number of alerts", maximum=1000, default=100),
            cursor("cursor", "`next` of the previous page"),
        ),
    ),
    Operation(
        method="GET",
        path="/{id}",
        handle=get_alert,
        summary="Return an alert with its transitions",
        response_type=schemas.AlertDetails,
        error_statuses=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/ack",
        right="ack",
        handle=acknowledge_alert,
        summary="Acknowledge an alert and stop its reminders",
        response_type=schemas.Alert,
        body_type=schemas.AcknowledgementBody,
        optional=True,
        error_statuses=(404,),
    ),
    Operation(
        method="POST",
        path="/{id}/unack",
        right="ack",
        handle=unacknowledge_alert,
        summary="Remove the acknowledgement of an alert",
        response_type=schemas.Alert,
        error_statuses=(404,),
    ),
)
