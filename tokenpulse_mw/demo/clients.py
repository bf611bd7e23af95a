"""Clients of the demo's gateway: real requests, and a note of everything that came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

# Where each provider is asked, how its API wants a stream, and the request's body.
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
_STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Seen:
    """What came back.

    Attributes:
        statuses: How often each status came, by client and status.
        tokens: What the vendors said they read and wrote, by provider and "input" or "output".
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)


class Client:
    """One client of the gateway.

    The gateway trusts this machine as its proxy, so the address can be any.

    Args:
        http: Has the gateway as its base URL.
        seen: Where to note what comes back.
        address: The client's address, as a proxy in front of the gateway would give it.
        tenant: The client's API key.
    """

    def __init__(self, http: httpx2.AsyncClient, seen: Seen, *, address: str, tenant: str) -> None:
        self._http = http
        self._seen = seen
        self._address = address
        self._headers = {"x-forwarded-for": address, "authorization": f"Bearer {tenant}"}

    async def ask(self, provider: str) -> int:
        """Ask for a plain answer; gives the status."""
        path, _, body = CALLS[provider]
        answer = await self._http.post(path, json=body, headers=self._headers)
        self._note(provider, answer.status_code, [answer.json()] if answer.is_success else [])
        return answer.status_code

    async def ask_streaming(self, provider: str, *, hang_up: bool = False, words: int = 8) -> int:
        """Ask for a stream; read it to its end, or hang up after the model's first words."""
        _, path, body = CALLS[provider]
        if provider != "gemini":
            body = {**body, **_STREAMED, "max_tokens": words}
        events: list[dict[str, Any]] = []
        async with self._http.stream("POST", path, json=body, headers=self._headers) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    events.append(msgspec.json.decode(line.removeprefix("data: ")))
                if hang_up and len(events) == 4:
                    break
        self._note(provider, answer.status_code, events)
        return answer.status_code

    def _note(self, provider: str, status: int, documents: list[dict[str, Any]]) -> None:
        self._seen.statuses[self._address, status] += 1
        said = {kind: n for document in documents for kind, n in _said(document)}
        for kind, n in said.items():
            self._seen.tokens[provider, kind] += n


def _said(document: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """What one answer, or one event of it, says of tokens; the last word of each kind counts."""
    inner = document.get("message") or {}
    usage = document.get("usage") or document.get("usageMetadata") or inner.get("usage") or {}
    for kind, names in {
        "input": ("prompt_tokens", "input_tokens", "promptTokenCount"),
        "output": ("completion_tokens", "output_tokens", "candidatesTokenCount"),
    }.items():
        for name in names:
            if name in usage:
                yield kind, usage[name]
