"""Keys by annotations of the application, such as the tenant."""

from __future__ import annotations

import re
from collections.abc import Hashable

from starlette.types import Scope

from ...exchange import Exchange, annotations_of, recorder_of
from ...validation import check_choice
from ..callables import KeyFunction, factory
from ..key_kinds import tenant_kind, text_kind, with_kind
from ..misuse import logger

_ONLY_ANNOTATED = ("tenant", "api_key", "credential")
_FIELDS = (*_ONLY_ANNOTATED, "provider", "model")  # these two are also read from the response
_MAX_INSPECTED = 1000  # requests; a late annotation is visible in the first ones
_MAX_MISSING = 100  # successful requests
_MAX_PROBE_CHARS = 32  # at the end of a path
_PROBE = re.compile("/$|health|live|read(y|iness)|startup|ping$|heartbeat|metrics|status|/up$")


@factory
def annotation(field: str) -> KeyFunction:
    """Return a key function for an annotation of the exchange; without it, the key is None.

    The annotation must exist before the rate limit is evaluated: call `annotate()` in a middleware
    outside the rate limit, not in an endpoint. For a limit at a route (`TokenPulse.limit`), an
    earlier dependency may call it; if a dependency knows the value itself, it is the key:
    `pulse.limit(..., key=Depends(get_tenant))`.

    Args:
        field: "tenant", "api_key", "credential", "provider" or "model".

    Raises:
        ValueError: `field` is unknown.
    """
    check_choice("field", field, _FIELDS)
    detector = _MissingAnnotationDetector(field)

    def key(scope: Scope) -> Hashable | None:
        annotations = annotations_of(scope)
        value = annotations.get(field) if annotations else None
        if detector.left:
            detector.inspect(scope, value)
        return value or None

    create_kind = tenant_kind if field == "tenant" else text_kind
    return with_kind(key, create_kind(f"annotation {field}"))


class _MissingAnnotationDetector:
    """Detector of a limit without effect because the annotation is late or missing.

    It is active until the first annotation. Requests without a key are normal for probes, and for
    clients that the application rejects.

    Args:
        field: Name of the annotation.

    Attributes:
        left: Number of requests without a key still to inspect.
    """

    needs_close = False

    def __init__(self, field: str) -> None:
        self.left = _MAX_INSPECTED
        self._field = field
        self._missing = 0

    def inspect(self, scope: Scope, value: object) -> None:
        """Stop if the request has a key; else inspect it again when it ends."""
        if value:
            self.left = 0
            return
        self.left -= 1
        if _is_probe(scope):
            return
        recorder = recorder_of(scope)
        if recorder is None:
            self._count()
        else:
            recorder.add_callback(self)

    def finished(self, exchange: Exchange) -> None:
        """Warn if the request was annotated too late; else count it if it succeeded."""
        if self._field in _ONLY_ANNOTATED and getattr(exchange, self._field) is not None:
            self._log("was evaluated before the application annotated it")
        elif exchange.status < 300:
            self._count()

    async def close(self) -> None:
        """Do nothing: `needs_close` is False."""

    def _count(self) -> None:
        self._missing += 1
        if self._missing == _MAX_MISSING:
            self._log(f"found no annotation in {_MAX_MISSING} requests")

    def _log(self, problem: str) -> None:
        if self.left:
            self.left = 0
            logger.warning(
                "keys.annotation(%r) %s, so no request is limited (logged once): call annotate() "
                "in a middleware outside the limit (with TokenPulse: added before install(), and "
                "the policy in inner_policies), or, if a dependency or an endpoint knows it, "
                "limit at the route: Depends(pulse.limit(...)) or await pulse.check(...)",
                self._field,
                problem,
            )


def _is_probe(scope: Scope) -> bool:
    """Return True if the request may be a probe, which has no tenant."""
    is_safe = scope.get("method") in ("GET", "HEAD")
    return is_safe and _PROBE.search(scope["path"][-_MAX_PROBE_CHARS:]) is not None
