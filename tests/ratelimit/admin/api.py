"""Limits with their endpoints, and an authorized client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette

from tokenpulse_mw import Exchange, ExchangeMiddleware, Policy
from tokenpulse_mw.ratelimit import BlockedKeys, Rejections, limit_routes
from tokenpulse_mw.web.auth import bearer

from ...support.asgi import Answer, drive, http_scope
from ...support.clock import FakeClock

TOKEN = (b"authorization", b"Bearer s3cret")
JSON = (b"content-type", b"application/json")
NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


class Api:
    """Endpoints of some limits.

    Args:
        policies: Limits.
        options: Options of the routes.

    Attributes:
        clock: Clock of the blocks and the rejections.
    """

    def __init__(self, *policies: Policy, **options: Any) -> None:
        self.policies: Sequence[Policy] = policies
        self.exchanges: list[Exchange] = []
        self.clock = FakeClock(NOON)
        self.blocks = BlockedKeys(policies, clock=self.clock)
        self.rejections = Rejections(clock=self.clock)
        self.routes = limit_routes(
            policies,
            **{
                "authorize": bearer("s3cret"),
                "blocks": self.blocks,
                "rejections": self.rejections,
                **options,
            },
        )
        self.app = ExchangeMiddleware(
            Starlette(routes=self.routes), observers=[self.exchanges.append]
        )

    async def send(
        self, method: str, path: str = "", body: object = None, *, match: str = "*", **more: Any
    ) -> Answer:
        """Return the response to a request; `path` may have a query."""
        headers = more.pop("headers", [TOKEN, JSON])
        condition = [(b"if-match", match.encode())] if match else []
        path, _, query = path.partition("?")
        scope = http_scope(
            f"/admin/limits{path}",
            method=method,
            headers=[*headers, *condition],
            query_string=query.encode(),
        )
        data = b"" if body is None else json.dumps(body).encode()
        return await drive(self.app, scope, received=[{"type": "http.request", "body": data}])

    async def get(self, path: str) -> Any:
        """Return the decoded body of a successful GET request."""
        answer = await self.send("GET", path)
        assert answer.status == 200, answer.body
        return content(answer)

    async def handle(self, text: str, policy: str = "default") -> str:
        """Return the handle of the key that an operator looks up."""
        [key] = (await self.get(f"/{policy}/keys?q={text}"))["keys"]
        return str(key["key"])


def content(answer: Answer) -> Any:
    """Return the decoded body."""
    return json.loads(answer.body)
