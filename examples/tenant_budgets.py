"""FastAPI gateway with a budget in dollars for each tenant, and a usage report.

Run it:

    TOKENPULSE_ADMIN_TOKEN=a-token-of-enough-characters uvicorn tenant_budgets:app

    curl -i -X POST http://127.0.0.1:8000/v1/chat/completions -H "authorization: Bearer sk-1"
    curl "http://127.0.0.1:8000/usage?by=model" -H "authorization: Bearer sk-1"
    curl "http://127.0.0.1:8000/admin/usage?by=tenant,model&format=csv" \
        -H "authorization: Bearer a-token-of-enough-characters"

The budgets of the plans begin again with each month in Berlin. A tenant without a budget left is
answered with 402. `pip install 'tokenpulse-mw[cost]'` adds the prices of more than 2,000 models.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    PlanLimiter,
    Policy,
    Rates,
    TokenPulse,
    annotate,
    keys,
    openai_error,
    requests_to,
)

TENANTS = {"Bearer sk-1": "acme", "Bearer sk-2": "globex"}
PLANS = {"acme": "free", "globex": "pro"}


def tenant_of(request: Request) -> str | None:
    """Return the tenant of an API key; replace the table with your database."""
    return TENANTS.get(request.headers.get("authorization", ""))


class Tenants:
    """Middleware that annotates the tenant of an API key outside the limits."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Annotate the tenant and call the application."""
        if scope["type"] == "http":
            annotate(scope, tenant=tenant_of(Request(scope)))
        await self.app(scope, receive, send)


app = FastAPI()
app.add_middleware(Tenants)


@app.post("/v1/chat/completions")
async def chat() -> dict[str, object]:
    """Return a completion; replace it with a request to your vendor."""
    usage = {"prompt_tokens": 200_000, "completion_tokens": 5_000}
    return {"object": "chat.completion", "model": "gpt-5-mini", "choices": [], "usage": usage}


budgets = PlanLimiter(
    {"free": "1 USD per calendar month", "pro": "100 USD per calendar month"},
    plan_of=PLANS.get,
    default="0.1 USD per calendar month",
    timezone="Europe/Berlin",
)
TokenPulse(
    providers=["openai"],
    prices={
        "gpt-5*": Rates(input="1.25", output=10, cache_read="0.125"),
        "gpt-5-mini*": Rates(input="0.25", output=2, cache_read="0.025"),
    },
    inner_policies=[
        Policy(
            budgets,
            name="budget",
            key=keys.annotation("tenant"),
            reserve="0.10 USD",  # of each request in progress, at least its cost
            status=402,
            when=requests_to("/v1/*", methods=["POST"]),  # not to /usage
        ),
    ],
    usage_tenant=tenant_of,
    respond=openai_error,
).install(app)
