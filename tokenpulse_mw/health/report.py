"""Bodies of the health endpoints: the status, and the reasons for authorized requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .results import Observation, Status

HEALTH_JSON = "application/health+json"

# Aliases of draft-inadarei-api-health-check.
PLAIN: Mapping[Status, str] = {"pass": "ok", "warn": "warn", "fail": "error"}


def accepts_health_json(accept: str) -> bool:
    """Return True if an Accept header names `application/health+json`."""
    for part in accept.split(","):
        name, *parameters = (field.strip().lower() for field in part.split(";"))
        if name == HEALTH_JSON:
            return not any(parameter.rstrip("0.") == "q=" for parameter in parameters)
    return False


def document(
    status: Status, service: str, observations: Mapping[str, Observation] | None
) -> dict[str, Any]:
    """Return the body of `application/health+json` (draft-inadarei-api-health-check-06).

    Args:
        status: Status of the service.
        service: Name of the service.
        observations: The reasons by name; None if the request is not authorized to see them.
    """
    if observations is None:
        return {"status": status}
    checks = {name: [_check(observation)] for name, observation in observations.items()}
    return {"status": status, "serviceId": service, "checks": checks}


def _check(observation: Observation) -> dict[str, Any]:
    result = observation.result
    fields = {
        "componentType": observation.component_type,
        "observedValue": result.observed_value,
        "observedUnit": result.observed_unit,
        "status": result.status,
        "time": _date(observation.time),
        "output": None if result.status == "pass" else result.output,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _date(seconds: float) -> str:
    date = datetime.fromtimestamp(seconds, UTC)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")
