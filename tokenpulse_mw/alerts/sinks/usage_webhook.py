"""Sink that posts the usage of ended hours as JSON to a URL."""

from __future__ import annotations

from datetime import UTC, datetime

from ...usage import Cost
from ..usage_export import UsageEvent, UsageRow
from .event import rfc3339
from .http import to_json
from .webhook import WebhookBase, sign


class UsageWebhook(WebhookBase):
    """Posts `{"type": "usage.hour", "timestamp": ..., "data": {"rows": [...]}}`, signed.

    Each row has an `id` and a `revision`: store it under its id, unless a row with a higher
    revision is stored. The header `webhook-id` is the same in each attempt with the same rows.
    Requests, signatures and arguments are those of `WebhookSink`.
    """

    async def __call__(self, event: UsageEvent) -> None:
        """Make one attempt.

        Raises:
            Rejected: The receiver will never accept this event.
            RetryLater: The receiver did not accept it now.
        """
        body = to_json(lambda: _message(event))
        await self._client.post(body, sign(self._keys, event.id, int(self._wall()), body))


def _message(event: UsageEvent) -> dict[str, object]:
    return {
        "type": "usage.hour",
        "timestamp": rfc3339((event.rows[-1].usage.hour + 1) * 3600),  # the same in each attempt
        "data": {"rows": [_row(row) for row in event.rows]},
    }


def _row(row: UsageRow) -> dict[str, object]:
    usage = row.usage
    return {
        "id": row.id,
        "revision": row.revision,
        "hour": datetime.fromtimestamp(usage.hour * 3600, UTC),
        "tenant": usage.tenant,
        "tenant_name": row.tenant_name,
        "model": usage.model,
        "provider": usage.provider,
        "requests": usage.requests,
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "reasoning_tokens": usage.reasoning,
        "cost_usd": f"{Cost(usage.cost_nanos).usd:f}",
        "unpriced_requests": usage.unpriced,
    }
