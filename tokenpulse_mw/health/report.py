"""Bodies of the health endpoints: a status, and the reasons for authorized requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .results import Observation, Status

HEALTH_JSON = "application/health+json"

# Aliases of draft-inadarei-api-health-check.
PLAIN: Mapping[Status, str] = {"pass": "ok", "warn": "warn", "fail": "error"}


def wants_health_json(accept: str) -> bool:
    """Return True if an Accept header names `application/health+json`."""
    for part in accept.split(","):
        name, *parameters = (field.strip().lower() for field in part.split(";"))
        if name == HEALTH_JSON:
            return not any(parameter.rstrip("0.") == "q=" for parameter in parameters)
    return False


def document(
    status: Status, service: str, observed: Mapping[str, Observation] | None
) -> dict[str, Any]:
    """Return the body of `application/health+json` (draft-inadarei-api-health-check-06).

    Args:
        status: Status of the service.
        service: Name of the service.
        observed: The reasons by name; None if the request may not see them.
    """
    if observed is None:
        return {"status": status}
    checks = {name: [_check(observation)] for name, observation in observed.items()}
    return {"status": status, "serviceId": service, "checks": checks}


def _check(observed: Observation) -> dict[str, Any]:
    result = observed.result
    fields = {
        "componentType": observed.component_type,
        "observedValue": result.observed_value,
        "observedUnit": result.observed_unit,
        "status": result.status,
        "time": _date(observed.time),
        "output": None if result.status == "pass" else result.output,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _date(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
