"""UsageWebhook: signed requests with the usage of ended hours."""

from __future__ import annotations

import base64

import pytest
from standardwebhooks import Webhook

from tokenpulse_mw.alerts import UsageWebhook
from tokenpulse_mw.alerts.store.usage import UsageRecord, UsageRevision
from tokenpulse_mw.alerts.usage_export import event_of

from ...support.receiver import Receiver

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
USAGE = UsageRecord(500_000, "acme", "gpt-5", "openai", 3, 300, 60, 120, 0, 9, 4_500_000, 1)


@pytest.mark.anyio
async def test_request_has_the_rows_and_a_valid_signature() -> None:
    """Each attempt sends the same body under the same id."""
    event = event_of([UsageRevision(USAGE, 2)], {"acme": "Acme Ltd"}.get)
    with Receiver() as receiver:
        sink = UsageWebhook(receiver.url, secret=SECRET)
        await sink(event)
        await sink(event)
        await sink.aclose()

    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event.id
    assert Webhook(SECRET).verify(first.body, dict(first.headers)) == {
        "type": "usage.hour",
        "timestamp": "2027-01-15T09:00:00.000Z",
        "data": {
            "rows": [
                {
                    "id": event.rows[0].id,
                    "revision": 2,
                    "hour": "2027-01-15T08:00:00Z",
                    "tenant": "acme",
                    "tenant_name": "Acme Ltd",
                    "model": "gpt-5",
                    "provider": "openai",
                    "requests": 3,
                    "input_tokens": 300,
                    "output_tokens": 60,
                    "cache_read_tokens": 120,
                    "cache_write_tokens": 0,
                    "reasoning_tokens": 9,
                    "cost_usd": "0.004500000",
                    "unpriced_requests": 1,
                }
            ]
        },
    }
