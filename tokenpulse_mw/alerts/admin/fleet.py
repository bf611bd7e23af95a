"""Operation on the fleet: its leader and its processes."""

from __future__ import annotations

from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import to_datetime, to_datetime_or_none


async def get_fleet(request: AdminRequest) -> AdminResponse:
    """Return the leader and the processes of the fleet."""
    fleet = await request.engine.fleet()
    processes = [member.process for member in fleet.members]
    leader = next((process for process in processes if process.name == fleet.holder), None)
    named = None if leader is None else schemas.Leader(leader.name, leader.host, leader.pid)
    members = [
        schemas.Member(
            name=process.name,
            host=process.host,
            pid=process.pid,
            version=process.version,
            protocol=process.protocol,
            started_at=to_datetime(process.started_at),
            heartbeat_age_seconds=max(0.0, fleet.now - member.seen_at),
            may_lead=process.leads,
            leads=process is leader,
            differs=[] if leader is None else process.differences(leader),
        )
        for process, member in zip(processes, fleet.members, strict=True)
    ]
    return AdminResponse(
        schemas.Fleet(
            leader=named,
            epoch=fleet.epoch,
            evaluated_at=to_datetime_or_none(fleet.evaluated_at),
            complete_since=to_datetime(fleet.complete_since),
            revision=fleet.revision,
            members=members,
        )
    )


OPERATIONS = (
    Operation(
        method="GET",
        path="/fleet",
        handle=get_fleet,
        summary="Return the processes that share the alert store, and the one that leads them",
        response_type=schemas.Fleet,
    ),
)
