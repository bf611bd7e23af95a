"""Simulated vendor with the APIs of OpenAI, Anthropic and Gemini."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_WORDS = ("the ", "pulse ", "of ", "a ", "token ", "is ", "a ", "number ")
WORD_DELAY = 0.01  # seconds between two words of a stream

Event = tuple[str, dict[str, Any]]


class Vendor:
    """Application with the response formats of OpenAI, Anthropic and Gemini.

    It counts an input token for every four bytes of the request. The number of words in a response
    is the request's token limit, 8 by default.

    Attributes:
        down: If True, all responses are 503.
        rejects_gemini: If True, responses to Gemini's requests are 401, as to a revoked key.
    """

    def __init__(self) -> None:
        self.down = self.rejects_gemini = False
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._openai, methods=["POST"]),
                Route("/v1/messages", self._anthropic, methods=["POST"]),
                Route("/v1beta/models/{call}", self._gemini, methods=["POST"]),
            ]
        )

    async def _openai(self, request: Request) -> Response:
        body, input_tokens = await _read(request)
        words = _words(body.get("max_completion_tokens") or body.get("max_tokens"))
        model = body.get("model", "gpt-demo")
        usage = {
            "prompt_tokens": input_tokens,
            "completion_tokens": len(words),
            "total_tokens": input_tokens + len(words),
        }
        head = {"id": "chatcmpl-1", "created": 0, "model": model}
        if body.get("stream"):
            options = body.get("stream_options") or {}
            stream_usage = usage if options.get("include_usage") else None
            return self._stream(openai_events(head, words, stream_usage), last="data: [DONE]\n\n")
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._respond(
            {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    async def _anthropic(self, request: Request) -> Response:
        body, input_tokens = await _read(request)
        words = _words(body.get("max_tokens"))
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", "claude-demo"),
            "stop_sequence": None,
        }
        if body.get("stream"):
            return self._stream(anthropic_events(message, words, input_tokens))
        return self._respond(
            {
                **message,
                "content": [{"type": "text", "text": "".join(words)}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": input_tokens, "output_tokens": len(words)},
            }
        )

    async def _gemini(self, request: Request) -> Response:
        if self.rejects_gemini:
            return JSONResponse({"error": {"status": "UNAUTHENTICATED"}}, status_code=401)
        body, input_tokens = await _read(request)
        words = _words((body.get("generationConfig") or {}).get("maxOutputTokens"))
        model, _, verb = request.path_params["call"].partition(":")
        events = gemini_events(model, words, input_tokens)
        if verb == "streamGenerateContent":
            return self._stream(events)
        *_, (_, last) = events
        last["candidates"][0]["content"]["parts"] = [{"text": "".join(words)}]
        return self._respond(last)

    def _respond(self, body: dict[str, Any]) -> Response:
        return _unavailable() if self.down else JSONResponse(body)

    def _stream(self, events: Iterator[Event], last: str = "") -> Response:
        if self.down:
            return _unavailable()
        return StreamingResponse(_paced(events, last), media_type="text/event-stream")


def openai_events(
    head: dict[str, Any], words: list[str], usage: dict[str, int] | None
) -> Iterator[Event]:
    """Yield the chunks of a chat completion; a chunk with usage is last and has no choices."""
    head = {**head, "object": "chat.completion.chunk"}
    for delta in [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield "", {**head, "choices": [choice], "usage": None}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield "", {**head, "choices": [stop], "usage": None}
    if usage:
        yield "", {**head, "choices": [], "usage": usage}


def anthropic_events(
    message: dict[str, Any], words: list[str], input_tokens: int
) -> Iterator[Event]:
    """Yield the events of a message; the first has the input tokens, the last the output tokens."""
    usage = {"input_tokens": input_tokens, "output_tokens": 1}
    started = {**message, "content": [], "stop_reason": None, "usage": usage}
    block = {"type": "text", "text": ""}
    bodies: list[dict[str, Any]] = [
        {"type": "message_start", "message": started},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in words
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": len(words)},
        },
        {"type": "message_stop"},
    ]
    for body in bodies:
        yield body["type"], body


def gemini_events(model: str, words: list[str], input_tokens: int) -> Iterator[Event]:
    """Yield responses of Gemini, each with the cumulative usage."""
    for number, word in enumerate(words, start=1):
        content = {"role": "model", "parts": [{"text": word}]}
        usage = {
            "promptTokenCount": input_tokens,
            "candidatesTokenCount": number,
            "totalTokenCount": input_tokens + number,
        }
        yield (
            "",
            {
                "candidates": [{"content": content, "index": 0}],
                "usageMetadata": usage,
                "modelVersion": model,
            },
        )


async def _paced(events: Iterator[Event], last: str) -> AsyncIterator[str]:
    for name, body in events:
        data = msgspec.json.encode(body).decode()
        yield f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"
        await anyio.sleep(WORD_DELAY)
    if last:
        yield last


async def _read(request: Request) -> tuple[dict[str, Any], int]:
    """Return the body, and the number of its tokens."""
    content = await request.body()
    body = msgspec.json.decode(content, type=dict[str, Any])
    return body, max(len(content) // 4, 1)


def _words(limit: int | None) -> list[str]:
    return [_WORDS[number % len(_WORDS)] for number in range(limit or len(_WORDS))]


def _unavailable() -> Response:
    error = {"type": "overloaded_error", "message": "the vendor is down"}
    return JSONResponse({"error": error}, status_code=503)
