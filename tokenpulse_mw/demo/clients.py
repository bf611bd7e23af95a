"""Clients of the demo's gateway, which record statuses and token counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

# Path of a plain request, path of a stream, and body, by provider.
CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "codex": (
        "/codex/v1/chat/completions",
        "/codex/v1/chat/completions",
        {"model": "gpt-demo", "messages": [{"role": "user", "content": "How do you do?"}]},
    ),
    "claude": (
        "/claude/v1/messages",
        "/claude/v1/messages",
        {
            "model": "claude-demo",
            "max_tokens": 12,
            "messages": [{"role": "user", "content": "How do you do?"}],
        },
    ),
    "gemini": (
        "/gemini/v1beta/models/gemini-demo:generateContent",
        "/gemini/v1beta/models/gemini-demo:streamGenerateContent",
        {"contents": [{"parts": [{"text": "How do you do?"}]}]},
    ),
}
_STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class ClientStats:
    """Responses that the clients received.

    Attributes:
        statuses: Number of responses by client address and status.
        tokens: Tokens in the usage of the responses, by provider and "input" or "output".
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)


class Client:
    """One client of the gateway.

    The gateway trusts this machine as a proxy, so the client can have any address.

    Args:
        http: HTTP client with the gateway as its base URL.
        stats: Receives statuses and tokens.
        address: Address for `X-Forwarded-For`.
        tenant: API key of the client.
    """

    def __init__(
        self, http: httpx2.AsyncClient, stats: ClientStats, *, address: str, tenant: str
    ) -> None:
        self._http = http
        self._stats = stats
        self._address = address
        self._headers = {"x-forwarded-for": address, "authorization": f"Bearer {tenant}"}

    async def send(self, provider: str) -> int:
        """Send a plain request, and return the status."""
        path, _, body = CALLS[provider]
        response = await self._http.post(path, json=body, headers=self._headers)
        documents = [response.json()] if response.is_success else []
        self._record(provider, response.status_code, documents)
        return response.status_code

    async def stream(self, provider: str, *, disconnect: bool = False, words: int = 8) -> int:
        """Read a stream to its end, or disconnect after four events; return the status."""
        _, path, body = CALLS[provider]
        if provider != "gemini":
            body = {**body, **_STREAM_FIELDS, "max_tokens": words}
        events: list[dict[str, Any]] = []
        async with self._http.stream("POST", path, json=body, headers=self._headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    events.append(msgspec.json.decode(line.removeprefix("data: ")))
                if disconnect and len(events) == 4:
                    break
        self._record(provider, response.status_code, events)
        return response.status_code

    def _record(self, provider: str, status: int, documents: list[dict[str, Any]]) -> None:
        self._stats.statuses[self._address, status] += 1
        usage = {kind: count for document in documents for kind, count in _usage(document)}
        for kind, count in usage.items():
            self._stats.tokens[provider, kind] += count


def _usage(document: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the token counts of a response or an event; later events of a stream are final."""
    inner = document.get("message") or {}
    usage = document.get("usage") or document.get("usageMetadata") or inner.get("usage") or {}
    for kind, names in {
        "input": ("prompt_tokens", "input_tokens", "promptTokenCount"),
        "output": ("completion_tokens", "output_tokens", "candidatesTokenCount"),
    }.items():
        for name in names:
            if name in usage:
                yield kind, usage[name]
