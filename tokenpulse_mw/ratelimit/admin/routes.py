"""Routes of the limits."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute

from ...exchange import drop_exchange
from ...web.auth import Authorize, Guard
from ...web.endpoint import Endpoint, check_prefix
from ...web.openapi import openapi_operation
from ...web.operation import Operation
from ..blocked_keys import BlockedKeys
from ..key_kinds import NameOf
from ..policy import Policy
from ..rejections import Rejections
from .handles import KeyHandles
from .keys import KeepBlock, KeyOperations, key_operations
from .limits import KeepLimit, LimitOperations, limit_operations
from .state import LimitsState, unknown_name

_DESCRIPTION = (
    "Reads and changes limits and their keys. Times are RFC 3339 in UTC, and names are in "
    "snake_case. Errors are problem details (RFC 9457)."
)


def limit_routes(
    policies: Sequence[Policy],
    *,
    authorize: Authorize,
    keep: KeepLimit | None = None,
    keep_block: KeepBlock | None = None,
    blocks: BlockedKeys | None = None,
    rejections: Rejections | None = None,
    name_of: NameOf | None = None,
    secret: bytes | None = None,
    prefix: str = "/admin/limits",
) -> list[BaseRoute]:
    """Return the routes that list limits and their keys, and change them.

    `GET {prefix}/openapi.json` returns their OpenAPI description. A change keeps what clients have
    used. Without `keep` and `keep_block`, it applies to this process only and lasts until it ends.
    It is logged with its author. Authorized requests are excluded from metrics and alert
    statistics; unauthorized ones get 401.

    Args:
        policies: Limits; more may be appended later.
        authorize: Returns True, the name of the client, or a `Person` with rights if the request
            is authorized, as `bearer` does; may be async. Changes need the right "limits".
        keep: Async function of the policy's name, the change and its author, called before the
            change applies. It may store the change for other processes and for the next start. An
            error that it raises is the response.
        keep_block: The same for the block of a key: a function of the policy, the key and the
            block, that returns True if other processes apply the block too.
        blocks: Blocked keys of the policies.
        rejections: The rejected keys that a `RateLimitMiddleware` is given too.
        name_of: Function of the id of a tenant that returns its readable name, or None.
        secret: Secret of the handles of keys, by which other processes find the same keys; a
            random one of this process when None.
        prefix: Path of the routes.

    Raises:
        ValueError: `authorize` is not callable, or `prefix` is not a path.
    """
    check_prefix(prefix, "/admin/limits")
    guard = Guard(authorize, of="limit_routes")
    state = LimitsState(
        policies,
        blocks=BlockedKeys(policies) if blocks is None else blocks,
        rejections=Rejections() if rejections is None else rejections,
        handles=KeyHandles(secret),
        name_of=unknown_name if name_of is None else name_of,
    )
    operations = (
        *key_operations(KeyOperations(state, keep_block)),
        *limit_operations(LimitOperations(state, keep)),
    )

    def route(path: str, operations: Sequence[Operation], name: str) -> BaseRoute:
        endpoint = Endpoint(operations, guard=guard, on_authorized=drop_exchange)
        return endpoint.route(prefix + path, name=name)

    openapi = openapi_operation(operations, prefix, title="Limits", text=_DESCRIPTION)
    paths: dict[str, list[Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, []).append(operation)
    return [
        route(openapi.path, [openapi], "get_limits_openapi"),
        *(route(path, grouped, grouped[0].handle.__name__) for path, grouped in paths.items()),
        route("/{path:path}", (), "limits_not_found"),
    ]
