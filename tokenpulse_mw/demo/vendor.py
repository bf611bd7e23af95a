"""A vendor of language models for one machine: it speaks three vendors' formats, and no sense."""

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
_PAUSE = 0.01  # seconds between two words of a stream

Event = tuple[str, dict[str, Any]]


class Vendor:
    """An application that answers as OpenAI, Anthropic and Gemini do.

    It "reads" a token for every four bytes of the request, and writes as many words as the
    request's token limit says, 8 by default.

    Attributes:
        down: Whether every request is answered with 503.
    """

    def __init__(self) -> None:
        self.down = False
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._openai, methods=["POST"]),
                Route("/v1/messages", self._anthropic, methods=["POST"]),
                Route("/v1beta/models/{call}", self._gemini, methods=["POST"]),
            ]
        )

    async def _openai(self, request: Request) -> Response:
        asked, read = await _read(request)
        words = _words(asked.get("max_completion_tokens") or asked.get("max_tokens"))
        model = asked.get("model", "gpt-demo")
        usage = {
            "prompt_tokens": read,
            "completion_tokens": len(words),
            "total_tokens": read + len(words),
        }
        head = {"id": "chatcmpl-1", "created": 0, "model": model}
        if asked.get("stream"):
            options = asked.get("stream_options") or {}
            counted = usage if options.get("include_usage") else None
            return self._answer_stream(openai_events(head, words, counted), last="data: [DONE]\n\n")
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._answer(
            {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    async def _anthropic(self, request: Request) -> Response:
        asked, read = await _read(request)
        words = _words(asked.get("max_tokens"))
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked.get("model", "claude-demo"),
            "stop_sequence": None,
        }
        if asked.get("stream"):
            return self._answer_stream(anthropic_events(message, words, read))
        return self._answer(
            {
                **message,
                "content": [{"type": "text", "text": "".join(words)}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": read, "output_tokens": len(words)},
            }
        )

    async def _gemini(self, request: Request) -> Response:
        asked, read = await _read(request)
        words = _words((asked.get("generationConfig") or {}).get("maxOutputTokens"))
        model, _, verb = request.path_params["call"].partition(":")
        events = gemini_events(model, words, read)
        if verb == "streamGenerateContent":
            return self._answer_stream(events)
        *_, (_, last) = events
        last["candidates"][0]["content"]["parts"] = [{"text": "".join(words)}]
        return self._answer(last)

    def _answer(self, body: dict[str, Any]) -> Response:
        return _unavailable() if self.down else JSONResponse(body)

    def _answer_stream(self, events: Iterator[Event], last: str = "") -> Response:
        if self.down:
            return _unavailable()
        return StreamingResponse(_paced(events, last), media_type="text/event-stream")


def openai_events(
    head: dict[str, Any], words: list[str], usage: dict[str, int] | None
) -> Iterator[Event]:
    """Chunks of a chat completion; the usage, where asked for, comes last and without choices."""
    head = {**head, "object": "chat.completion.chunk"}
    for delta in [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]:
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield "", {**head, "choices": [choice], "usage": None}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield "", {**head, "choices": [stop], "usage": None}
    if usage:
        yield "", {**head, "choices": [], "usage": usage}


def anthropic_events(message: dict[str, Any], words: list[str], read: int) -> Iterator[Event]:
    """Events of a message; its start has the input, its end the output, cumulative."""
    usage = {"input_tokens": read, "output_tokens": 1}
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


def gemini_events(model: str, words: list[str], read: int) -> Iterator[Event]:
    """Responses of Gemini, each with the usage so far."""
    for number, word in enumerate(words, start=1):
        content = {"role": "model", "parts": [{"text": word}]}
        usage = {
            "promptTokenCount": read,
            "candidatesTokenCount": number,
            "totalTokenCount": read + number,
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
        await anyio.sleep(_PAUSE)
    if last:
        yield last


async def _read(request: Request) -> tuple[dict[str, Any], int]:
    body = await request.body()
    asked = msgspec.json.decode(body, type=dict[str, Any])
    return asked, max(len(body) // 4, 1)


def _words(wanted: int | None) -> list[str]:
    return [_WORDS[number % len(_WORDS)] for number in range(wanted or len(_WORDS))]


def _unavailable() -> Response:
    error = {"type": "overloaded_error", "message": "the vendor is down"}
    return JSONResponse({"error": error}, status_code=503)
